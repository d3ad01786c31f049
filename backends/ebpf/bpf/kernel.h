// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's structures, as far as they are looked at. Offsets are not taken from here: every access is
// relocated against the running kernel's BTF when the programs are loaded (CO-RE), so that a structure needs
// only the fields that are used, in any order.
#pragma once

typedef signed char s8;
typedef unsigned char u8;
typedef short s16;
typedef unsigned short u16;
typedef int s32;
typedef unsigned int u32;
typedef long long s64;
typedef unsigned long long u64;

typedef u16 be16;
typedef u32 be32;

#define RELOCATED __attribute__((preserve_access_index))

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define AF_ALG 38
#define AF_VSOCK 40
#define NETLINK_XFRM 6
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define SOCK_DCCP 6
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_ICMPV6 58
#define IPPROTO_UDPLITE 136
#define IPPROTO_MPTCP 262
#define EPERM 1
#define EINTR 4
#define EAGAIN 11
#define ENOSYS 38
#define ENETUNREACH 101
#define EINPROGRESS 115
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000
#define SIGKILL 9
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define PF_EXITING 0x00000004
#define PF_IO_WORKER 0x00000010
#define PF_KTHREAD 0x00200000

enum tcp_state { TCP_ESTABLISHED = 1, TCP_SYN_SENT = 2, TCP_SYN_RECV = 3, TCP_CLOSE = 7, TCP_LISTEN = 10 };

#if defined(__TARGET_ARCH_x86)
struct thread_info {
	unsigned long flags;
	u32 status;
} RELOCATED;

struct pt_regs {
	unsigned long bp, r10, r9, r8, ax, cx, dx, si, di, bx, orig_ax, sp;
} RELOCATED;

// r15 to ss, of fixed layout (arch/x86/include/uapi/asm/ptrace.h)
#define USER_REGISTERS 168
#elif defined(__TARGET_ARCH_arm64)
struct thread_info {
	unsigned long flags;
} RELOCATED;

struct user_pt_regs {
	u64 regs[31];
} RELOCATED;

// struct user_pt_regs, with which struct pt_regs begins
#define USER_REGISTERS 272

struct pt_regs {
	union {
		struct user_pt_regs user_regs;
		struct {
			u64 regs[31];
			u64 sp;
		};
	};
	u64 orig_x0;
	s32 syscallno;
} RELOCATED;
#endif

struct ns_common {
	u32 inum;
} RELOCATED;

struct net {
	struct ns_common ns;
} RELOCATED;

struct nsproxy {
	struct net *net_ns;
} RELOCATED;

typedef struct {
	u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
} RELOCATED;

struct inode {
	u16 i_mode;
	unsigned long i_ino;
} RELOCATED;

struct file {
	struct inode *f_inode;
	void *private_data;
	s64 f_pos;
} RELOCATED;

struct fdtable {
	u32 max_fds;
	struct file **fd;
} RELOCATED;

struct files_struct {
	struct fdtable *fdt;
} RELOCATED;

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
	int group_exit_code;
} RELOCATED;

struct mm_struct {
	unsigned long saved_auxv[0];
} RELOCATED;

struct task_struct {
	struct thread_info thread_info;
	u32 flags;
	u32 pid;
	u32 tgid;
	s32 exit_code;
	char comm[16];
	struct mm_struct *mm;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct cred *cred;
	struct signal_struct *signal;
	struct task_struct *real_parent;
	void *worker_private;
} RELOCATED;

struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
} RELOCATED;

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	u16 skc_family;
	u8 skc_state;
	int skc_bound_dev_if;
	be32 skc_daddr;
	be32 skc_rcv_saddr;
	be16 skc_dport;
	u16 skc_num;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} RELOCATED;

struct sock {
	struct sock_common __sk_common;
	u16 sk_type;
	u16 sk_protocol;
} RELOCATED;

struct tcp_sock {
	u32 write_seq;
	u8 is_mptcp;
} RELOCATED;

struct inet_sock {
	be16 inet_sport;
} RELOCATED;

struct socket {
	s16 type;
	struct sock *sk;
} RELOCATED;

struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
} RELOCATED;

struct msghdr {
	void *msg_name;
	int msg_namelen;
	void *msg_control;
	unsigned long msg_controllen;
} RELOCATED;

struct sockaddr_un {
	u16 sun_family;
	char sun_path[108];
} RELOCATED;

struct unix_address {
	int len;
	struct sockaddr_un name[0];
} RELOCATED;

struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct sock *peer;
} RELOCATED;

struct io_cqe {
	s32 res;
	union {
		u32 flags;
		int fd;
	};
} RELOCATED;

struct io_wq_work {
	int cancel_seq;
} RELOCATED;

struct io_kiocb {
	u8 opcode;
	u64 flags;
	struct io_cqe cqe;
	struct io_wq_work work;
} RELOCATED;

struct io_worker {
	struct io_wq_work *cur_work;
} RELOCATED;

struct linux_binprm {
	const char *filename;
	const char *interp;
} RELOCATED;

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} RELOCATED;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
} RELOCATED;

// From <linux/bpf.h>: fixed, not relocated.
struct bpf_sock {
	u32 bound_dev_if;
	u32 family;
	u32 type;
	u32 protocol;
	u32 mark;
	u32 priority;
	be32 src_ip4;
	be32 src_ip6[4];
	u32 src_port;
	be16 dst_port;
	u16 : 16;
	be32 dst_ip4;
	be32 dst_ip6[4];
	u32 state;
	s32 rx_queue_mapping;
};

struct bpf_sock_ops {
	u32 op;
	u32 args[4];
	u32 family;
	be32 remote_ip4;
	be32 local_ip4;
	be32 remote_ip6[4];
	be32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 is_fullsock;
	u32 figures[23];
	u64 bytes[2];
	union {
		struct bpf_sock *sk;
		u64 : 64;
	} __attribute__((aligned(8)));
};

struct bpf_sock_addr {
	u32 user_family;
	be32 user_ip4;
	be32 user_ip6[4];
	u32 user_port;
	u32 family;
	u32 type;
	u32 protocol;
	be32 msg_src_ip4;
	be32 msg_src_ip6[4];
	union {
		struct bpf_sock *sk;
		u64 : 64;
	} __attribute__((aligned(8)));
};

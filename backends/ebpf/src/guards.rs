//! LSM programs (bpf/guards.h, messages.h, connects.h): which of them a run needs, and what is stopped at instead where the kernel
//! doesn't take them.

use sockstrace_backend::Syscall;
use sockstrace_backend::hooks::Hooks;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Control data of messages, datagrams without a destination, and sockets that nothing else sees.
    Messages,
    /// connect, of sockets that nothing else sees.
    Connecting,
    /// The making of sockets.
    Sockets,
    /// Socket options.
    Options,
    /// bind
    Binding,
    /// listen
    Listening,
    /// accept
    Accepting,
    /// Who listens on a UNIX socket.
    Listeners,
}

/// Those without which odd sockets could send unseen.
pub const SENDING: [Guard; 2] = [Guard::Messages, Guard::Connecting];

/// Those without which the outside could be served by an io_uring.
const SERVING: [Guard; 3] = [Guard::Binding, Guard::Listening, Guard::Accepting];

impl Guard {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Messages,
        Self::Connecting,
        Self::Sockets,
        Self::Options,
        Self::Binding,
        Self::Listening,
        Self::Accepting,
        Self::Listeners,
    ];

    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Messages => "on_message",
            Self::Connecting => "on_connect",
            Self::Sockets => "on_create",
            Self::Options => "on_option",
            Self::Binding => "on_bind",
            Self::Listening => "on_listen",
            Self::Accepting => "on_accept",
            Self::Listeners => "on_unix_connect",
        }
    }

    /// The kernel's name for the hook.
    pub fn hook(self) -> &'static str {
        match self {
            Self::Messages => "socket_sendmsg",
            Self::Connecting => "socket_connect",
            Self::Sockets => "socket_create",
            Self::Options => "socket_setsockopt",
            Self::Binding => "socket_bind",
            Self::Listening => "socket_listen",
            Self::Accepting => "socket_accept",
            Self::Listeners => "unix_stream_connect",
        }
    }

    /// What comes of its lack.
    pub fn without(self) -> &'static str {
        match self {
            Self::Messages => {
                "sendmsg is held up by seccomp, and io_urings, UDP-Lite, ping, DCCP and vsock sockets are refused \
                 where leaks are"
            }
            Self::Connecting => "UDP-Lite, ping, DCCP and vsock sockets are refused where leaks are",
            Self::Sockets | Self::Options => "io_urings are refused where leaks are",
            Self::Binding | Self::Listening | Self::Accepting => {
                "with --incoming block, bind, listen and accept are held up by seccomp, and io_urings refused"
            }
            Self::Listeners => {
                "connects are held up by seccomp where a resolver listens at a UNIX socket when PROGRAM starts"
            }
        }
    }
}

/// Those that a run needs.
pub fn needed(hooks: &Hooks) -> Vec<Guard> {
    let refuses = hooks.refusal.is_some();
    let is_needed = |guard: &Guard| match guard {
        Guard::Messages => hooks.messages || hooks.odd_sockets || (refuses && hooks.rings),
        Guard::Connecting => hooks.odd_sockets,
        // Where nothing is refused they tell what rings do.
        Guard::Sockets | Guard::Options => hooks.rings,
        Guard::Binding | Guard::Listening | Guard::Accepting => {
            hooks.served.is_some() && (hooks.rings || hooks.serving)
        }
        Guard::Listeners => refuses && !hooks.closed_paths.is_empty(),
    };
    Guard::ALL.into_iter().filter(is_needed).collect()
}

/// Makes do without these: the calls that must be stopped at instead.
pub fn do_without(missing: &[Guard], hooks: &mut Hooks) -> Vec<Syscall> {
    let lacks = |guard: &Guard| missing.contains(guard);
    let mut held = Vec::new();
    // Their making is stopped at anyhow.
    hooks.odd_sockets &= !SENDING.iter().any(lacks);
    if hooks.messages && lacks(&Guard::Messages) {
        hooks.forget_messages();
        held.push(Syscall::Sendmsg);
    }
    if hooks.rings && hooks.refusal.is_some() && needed(hooks).iter().chain(&[Guard::Messages]).any(lacks) {
        hooks.forget_rings();
        held.push(Syscall::IoUringSetup);
    }
    if hooks.serving && SERVING.iter().any(lacks) {
        hooks.forget_serving();
        held.extend([Syscall::Bind, Syscall::Listen, Syscall::Accept, Syscall::Accept4]);
    }
    if holds_connects(missing, hooks) {
        hooks.forget_connects();
        held.push(Syscall::Connect);
    }
    held
}

/// Whether connects are stopped at without these, because a path is there that may not be connected to.
pub fn holds_connects(missing: &[Guard], hooks: &Hooks) -> bool {
    hooks.refusal.is_some()
        && missing.contains(&Guard::Listeners)
        && hooks.closed_paths.iter().any(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use sockstrace_backend::hooks::{Refusal, StacksOf, Then};
    use sockstrace_backend::observed::SocketCall;

    fn hooks(refuses: bool) -> Hooks {
        Hooks {
            networks: Vec::new(),
            refusal: refuses.then_some(Refusal { errno: Errno::EPERM, then: Then::GoesOn }),
            calls: Vec::new(),
            counted: vec![SocketCall::Connect, SocketCall::Sendmsg, SocketCall::Bind],
            messages: true,
            odd_sockets: refuses,
            requests: vec![SocketCall::Connect],
            rings: true,
            options: vec![(0, 4)],
            closed_paths: vec!["/run/x".into()],
            served: refuses.then(Vec::new),
            serving: refuses,
            stacks: StacksOf::Nothing,
            holes: None,
            held: None,
        }
    }

    #[test]
    fn whatever_is_missing_no_ring_goes_unseen() {
        assert_eq!(needed(&hooks(true)), Guard::ALL);
        for missing in Guard::ALL {
            let mut hooks = hooks(true);
            let held = do_without(&[missing], &mut hooks);
            // An odd socket isn't had by a ring either then.
            let is_unseen = missing != Guard::Connecting;
            assert_eq!((!hooks.rings, hooks.requests.is_empty()), (is_unseen, is_unseen), "{missing:?}");
            assert_eq!(held.contains(&Syscall::IoUringSetup), is_unseen, "{missing:?}");
            assert_eq!(hooks.odd_sockets, !SENDING.contains(&missing), "{missing:?}");
            assert!(hooks.odd_sockets || !needed(&hooks).contains(&Guard::Connecting), "{missing:?}");
            assert_eq!(held.contains(&Syscall::Sendmsg), missing == Guard::Messages);
            assert_eq!(held.contains(&Syscall::Accept4), SERVING.contains(&missing), "{missing:?}");
            assert_eq!(hooks.counted.contains(&SocketCall::Sendmsg), missing != Guard::Messages);
            assert_eq!(hooks.counted.contains(&SocketCall::Bind), !SERVING.contains(&missing), "{missing:?}");
        }
        let mut all = hooks(true);
        assert_eq!(do_without(&[], &mut all), []);
        assert_eq!(all, hooks(true));
    }

    #[test]
    fn where_a_resolver_is_there_connects_are_held() {
        let there = || Hooks { closed_paths: vec!["/run/x".into(), "/".into()], ..hooks(true) };
        let mut without = there();
        assert!(do_without(&[Guard::Listeners], &mut without).contains(&Syscall::Connect));
        assert!(!without.counted.contains(&SocketCall::Connect));
        assert_eq!(do_without(&[Guard::Listeners], &mut without), []);
        assert_eq!(do_without(&[], &mut there()), []);
        assert!(holds_connects(&[Guard::Listeners], &there()) && !holds_connects(&[Guard::Options], &there()));
        assert!(!holds_connects(&Guard::ALL, &hooks(true)), "nobody is there");
    }

    #[test]
    fn where_nothing_is_refused_rings_are_seen_without_them() {
        let mut hooks = hooks(false);
        assert_eq!(needed(&hooks), [Guard::Messages, Guard::Sockets, Guard::Options]);
        assert_eq!(do_without(&Guard::ALL, &mut hooks), [Syscall::Sendmsg]);
        assert!(hooks.rings && !hooks.requests.is_empty() && !hooks.messages);
    }
}

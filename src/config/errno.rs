//! `--block-errno`

use nix::errno::Errno;

/// The errno with this name, whatever its case.
pub(super) fn from_name(name: &str) -> Result<Errno, String> {
    let name = name.to_ascii_uppercase();
    let name = match name.as_str() {
        // Second names of the same numbers.
        "EWOULDBLOCK" => "EAGAIN",
        "ENOTSUP" => "EOPNOTSUPP",
        "EDEADLOCK" => "EDEADLK",
        name => name,
    };
    if KERNEL_INTERNAL.contains(&name) {
        return Err("it never leaves the kernel; accepted: EPERM, ECONNREFUSED, … (errno(3))".into());
    }
    (1..LAST_ERRNO)
        .map(Errno::from_raw)
        .find(|errno| *errno != Errno::UnknownErrno && format!("{errno:?}") == name)
        .ok_or_else(|| "accepted are the names of errno(3): EPERM, EACCES, ECONNREFUSED, …".into())
}

/// Numbers up to `MAX_ERRNO` can be returned, but from 512 they are the kernel's own
/// (include/linux/errno.h), and would restart the call instead of failing it.
const LAST_ERRNO: i32 = 512;

const KERNEL_INTERNAL: &[&str] = &[
    "ERESTARTSYS",
    "ERESTARTNOINTR",
    "ERESTARTNOHAND",
    "ENOIOCTLCMD",
    "ERESTART_RESTARTBLOCK",
    "EPROBE_DEFER",
    "EOPENSTALE",
    "ENOPARAM",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(from_name("EPERM"), Ok(Errno::EPERM));
        assert_eq!(from_name("econnrefused"), Ok(Errno::ECONNREFUSED));
        assert_eq!(from_name("EWOULDBLOCK"), Ok(Errno::EAGAIN));
        assert_eq!(from_name("EHWPOISON"), Ok(Errno::EHWPOISON));
        for refused in ["", "0", "1", "EFOO", "UNKNOWNERRNO", "ERESTARTSYS", "ERESTARTNOINTR"] {
            assert!(from_name(refused).is_err(), "{refused}");
        }
    }
}

//! What else comes with a message: descriptors and credentials.

use crate::operation::layout::{self, control_messages};
use sockstrace_backend::Abi;
use std::fmt::Write as _;

/// `SCM_SECURITY` and `SCM_PIDFD` of <linux/socket.h>.
const SCM_SECURITY: i32 = 3;
const SCM_PIDFD: i32 = 4;

/// Control messages in words; nothing where there are none of interest. `name` knows connections by the
/// descriptors of the caller.
pub(super) fn describe(control: &[u8], abi: Abi, name: &dyn Fn(i32) -> Option<String>) -> Option<String> {
    let mut words = String::new();
    for message in control_messages(control, abi).flatten() {
        if message.level != libc::SOL_SOCKET {
            continue;
        }
        let separator = if words.is_empty() { "" } else { "; " };
        let int = |index: usize| layout::number(message.data, index.saturating_mul(4), 4) as i32;
        // Writing to a string can't fail.
        let _ = match message.kind {
            libc::SCM_RIGHTS => {
                let fds = (0..message.data.len() / 4).map(int).map(|fd| match name(fd) {
                    Some(name) => format!("{fd} ({name})"),
                    None => fd.to_string(),
                });
                write!(words, "{separator}SCM_RIGHTS: descriptors {}", fds.collect::<Vec<_>>().join(", "))
            }
            libc::SCM_CREDENTIALS => {
                let (pid, uid, gid) = (int(0), int(1) as u32, int(2) as u32);
                write!(words, "{separator}SCM_CREDENTIALS: pid {pid}, uid {uid}, gid {gid}")
            }
            SCM_SECURITY => {
                let label = String::from_utf8_lossy(message.data);
                write!(words, "{separator}SCM_SECURITY: {}", label.trim_end_matches('\0'))
            }
            SCM_PIDFD => write!(words, "{separator}SCM_PIDFD: descriptor {}", int(0)),
            _ => Ok(()),
        };
    }
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::layout::ControlBuilder;

    #[test]
    fn descriptors_and_credentials_are_named() {
        let mut control = ControlBuilder::default();
        let bytes = |numbers: &[i32]| numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<u8>>();
        control.push(libc::SOL_SOCKET, libc::SCM_RIGHTS, &bytes(&[5, 6]));
        control.push(libc::IPPROTO_IP, 1, &bytes(&[1]));
        control.push(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &bytes(&[7, 0, -1]));
        let name = |fd| (fd == 6).then(|| "2-x".to_owned());
        let text = describe(&control.finish(), Abi::X86_64, &name).unwrap();
        assert_eq!(text, "SCM_RIGHTS: descriptors 5, 6 (2-x); SCM_CREDENTIALS: pid 7, uid 0, gid 4294967295");
        assert_eq!(describe(&[1, 2, 3], Abi::I386, &name), None);
    }
}

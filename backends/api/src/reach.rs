//! Out of PROGRAM's reach.

use nix::errno::Errno;

/// Keeps processes of the same user out of this one's memory (`/proc/PID/mem`, which no judged call names) and
/// descriptors: ptrace(2), "Ptrace access mode checking". Who may trace everybody (`CAP_SYS_PTRACE`) isn't kept out.
///
/// Children inherit it until they execute a program or ask otherwise (`PR_SET_DUMPABLE`): until then an ordinary
/// user can't trace them either.
pub fn leave() {
    // It can't fail with this value.
    let _: Result<(), Errno> = nix::sys::prctl::set_dumpable(false);
}

//! The backends that this program has. Adding one adds a line here.

use sockstrace_backend::Backend;
use sockstrace_backend_ebpf::EbpfBackend;
use sockstrace_backend_ptrace::PtraceBackend;
use sockstrace_backend_seccomp::SeccompBackend;

/// All backends, the one first that `--backend auto` prefers.
#[must_use]
pub fn all() -> Vec<Box<dyn Backend>> {
    vec![Box::new(SeccompBackend::new()), Box::new(PtraceBackend::new()), Box::new(EbpfBackend::new())]
}

//! The thread that empties the ring of payloads while a program runs.

use super::Capture;
use crate::attention::{Attention, CHECK, GATHER, Woken};
use nix::fcntl::OFlag;
use nix::poll::PollTimeout;
use nix::unistd::pipe2;
use sockstrace_backend::filter::errno_of;
use sockstrace_backend::{BackendError, Handler};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

/// It, running.
pub struct Thread {
    worker: JoinHandle<Capture>,
    stop: OwnedFd,
    handler: Arc<dyn Handler>,
}

impl Thread {
    /// Starts it.
    pub fn start(mut capture: Capture, handler: &Arc<dyn Handler>) -> Result<Self, BackendError> {
        let mut attention = Attention::new(GATHER);
        capture.have_attended(&mut attention)?;
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC).map_err(BackendError::doing("making a pipe"))?;
        let told = Arc::clone(handler);
        let builder = std::thread::Builder::new().name("payloads".into());
        let worker = builder
            .spawn(move || listen(capture, attention, &stopped, &told))
            .map_err(|error| BackendError::Failed("starting a thread".into(), errno_of(&error)))?;
        Ok(Self { worker, stop, handler: Arc::clone(handler) })
    }

    /// Ends it when all is told.
    pub fn stop(self) {
        drop(self.stop);
        // It doesn't panic; and if it did, all is over anyhow.
        if let Ok(mut capture) = self.worker.join() {
            capture.finish(&mut |captured| self.handler.captured(captured));
        }
    }
}

fn listen(
    mut capture: Capture,
    mut attention: Attention,
    stopped: &OwnedFd,
    handler: &Arc<dyn Handler>,
) -> Capture {
    // SAFETY: the ring, and with it the descriptor, lives as long as `capture`.
    let ring = unsafe { BorrowedFd::borrow_raw(capture.descriptor()) };
    let mut at_most = PollTimeout::NONE;
    loop {
        match attention.wait(&[ring], stopped.as_fd(), at_most) {
            Ok(Woken::ToLook) => {
                attention.found(capture.drain(&mut |captured| handler.captured(captured)));
                at_most = PollTimeout::from(CHECK.as_millis() as u16);
            }
            Ok(Woken::InVain) => {
                capture.tell_lost(&mut |captured| handler.captured(captured));
                at_most = PollTimeout::NONE;
            }
            // No error is documented for valid descriptors. What is in the ring is told at the end.
            Ok(Woken::ToEnd) | Err(_) => return capture,
        }
    }
}

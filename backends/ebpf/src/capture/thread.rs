//! The thread that empties the ring of payloads while a program runs.

use super::Capture;
use crate::reader::{CHECK, GATHER};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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
    pub fn start(capture: Capture, handler: &Arc<dyn Handler>) -> Result<Self, BackendError> {
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC).map_err(BackendError::doing("making a pipe"))?;
        let told = Arc::clone(handler);
        let builder = std::thread::Builder::new().name("payloads".into());
        let worker = builder
            .spawn(move || listen(capture, &stopped, &told))
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

fn listen(mut capture: Capture, stopped: &OwnedFd, handler: &Arc<dyn Handler>) -> Capture {
    // SAFETY: the ring, and with it the descriptor, lives as long as `capture`.
    let ring = unsafe { BorrowedFd::borrow_raw(capture.descriptor()) };
    let mut busy = false;
    loop {
        let mut fds = [PollFd::new(ring, PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        let timeout = if busy { PollTimeout::from(CHECK.as_millis() as u16) } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Nothing is documented for valid descriptors. What is in the ring is told at the end.
            Err(_) => return capture,
        }
        let [records, end] = &fds;
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        if is_ready(end) {
            return capture;
        }
        busy = is_ready(records);
        if busy {
            std::thread::sleep(GATHER);
            capture.drain(&mut |captured| handler.captured(captured));
        } else {
            capture.tell_lost(&mut |captured| handler.captured(captured));
        }
    }
}

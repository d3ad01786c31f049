//! Something that is done now and then, on a thread of its own.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Does it as long as this lives.
#[derive(Debug)]
pub struct Ticker(Option<(Sender<()>, JoinHandle<()>)>);

impl Ticker {
    /// Begins: `tick` is called after each `interval`, and once more, with `true`, when this is dropped. Where no
    /// thread is to be had, it isn't.
    pub fn start(name: &str, interval: Duration, mut tick: impl FnMut(bool) + Send + 'static) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                tick(false);
            }
            tick(true);
        });
        Self(thread.ok().map(|thread| (stop, thread)))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // It can't have panicked: that would have ended us.
            let _: std::thread::Result<()> = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ticks_and_once_more_at_the_end() {
        let (sender, receiver) = channel();
        let ticker = Ticker::start("test", Duration::from_millis(1), move |last| {
            let _ = sender.send(last);
        });
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)), Ok(false));
        drop(ticker);
        assert_eq!(receiver.try_iter().last(), Some(true));
    }
}

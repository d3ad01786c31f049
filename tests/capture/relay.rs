//! A witness outside of the traced tree: stands between a client and the server's UNIX socket, and writes down
//! what each says.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What one connection said: from the client, and to it.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    pub client: Vec<u8>,
    pub server: Vec<u8>,
}

type All = Arc<Mutex<Vec<Arc<Mutex<Said>>>>>;

/// The witness.
pub struct Relay {
    pub path: PathBuf,
    said: All,
}

impl Relay {
    /// Listens at `path` for a server at `server`.
    pub fn new(path: &Path, server: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let said = All::default();
        let (all, server) = (Arc::clone(&said), server.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = UnixStream::connect(&server) else { continue };
                let said = Arc::<Mutex<Said>>::default();
                all.lock().unwrap().push(Arc::clone(&said));
                pump(client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&said), |s| {
                    &mut s.client
                });
                pump(server, client, said, |s| &mut s.server);
            }
        });
        Self { path: path.to_owned(), said }
    }

    /// What was said by now.
    pub fn said(&self) -> Vec<Said> {
        self.said.lock().unwrap().iter().map(|said| said.lock().unwrap().clone()).collect()
    }
}

fn pump(mut from: UnixStream, mut to: UnixStream, said: Arc<Mutex<Said>>, which: fn(&mut Said) -> &mut Vec<u8>) {
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            which(&mut said.lock().unwrap()).extend(&bytes[..count]);
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

//! A resolver behind a UNIX socket isn't asked, by whatever path; others are.

use super::support::backends;
use super::support::cases::{run_all, with_privilege};
use super::support::run::{Run, Status};
use super::support::stage::Stage;

/// Prints for each way what connect gave, and whether the resolver, or the other one, was reached.
const GUEST: &str = "
import os, signal, socket, subprocess
def server(path):
    it = socket.socket(socket.AF_UNIX)
    it.bind(path)
    it.listen(1000)
    it.setblocking(False)
    return it
def served(it):
    try:
        it.accept()[0].close()
        return True
    except BlockingIOError:
        return False
def ask(path):
    with socket.socket(socket.AF_UNIX) as it:
        return it.connect_ex(path)
os.remove('/run/avahi-daemon/socket')
resolver, other = server('/run/avahi-daemon/socket'), server('/run/other')
os.symlink('/run/avahi-daemon/socket', '/run/link')
os.link('/run/avahi-daemon/socket', '/run/hard')
os.mkdir('/run/mounted')
subprocess.run(['mount', '--bind', '/run/avahi-daemon', '/run/mounted'], check=True)
for path in ['avahi-daemon/socket', 'link', 'hard', 'mounted/socket', 'other']:
    print(path, ask('/run/' + path), served(resolver), served(other))
os.symlink('/run/other', '/run/turning')
child = os.fork()
if child == 0:
    while os.getppid() != 1:
        for target in ['/run/avahi-daemon/socket', '/run/other']:
            os.symlink(target, '/run/next')
            os.rename('/run/next', '/run/turning')
allowed = reached = 0
for _ in range(1500):
    ask('/run/turning')
    reached += served(resolver)
    allowed += served(other)
os.kill(child, signal.SIGKILL)
print('turning', allowed > 0, reached)
";

const TOLD: &str = "avahi-daemon/socket 1 False False\nlink 1 False False\nhard 1 False False\n\
                    mounted/socket 1 False False\nother 0 False True\nturning True 0\n";

#[test]
fn resolvers_are_not_reached() {
    with_privilege("resolvers::resolvers_are_not_reached", || {
        run_all(&backends(), ToString::to_string, |backend| {
            let stage = Stage::new();
            // Some know resolvers by what is there when the program starts.
            let own_run = "mount -t tmpfs none /run && mkdir /run/avahi-daemon && touch /run/avahi-daemon/socket && \
                           exec \"$@\"";
            let run = Run::new(backend, &stage.dir).allow_stage().arg("--stack=never");
            let run = run.wrap(["unshare", "-m", "sh", "-c", own_run, "sh"]);
            let outcome = run.program(["/usr/bin/python3", "-c", GUEST]).run();
            let resolver = |address: &str| address == "/run/avahi-daemon/socket";
            let told = outcome.leaks().filter(|leak| resolver(leak.text("address"))).count();
            let fits = outcome.stdout == TOLD && outcome.status == Status::Exited(23) && told >= 4;
            if fits && outcome.complaints().is_empty() { Ok(()) } else { Err(format!("{outcome:?}")) }
        });
    });
}

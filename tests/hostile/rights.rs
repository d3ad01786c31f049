//! What a privileged sockstrace performs, it performs with its program's rights.

use super::support::backends;
use super::support::cases::{root_is_alone, run_all, with_privilege};
use super::support::run::Run;
use super::support::stage::Stage;

/// Sends with control messages, and sets options, for which the kernel wants a capability, and such for which it
/// doesn't; prints what came of each.
const GUEST: &str = "
import errno, socket, struct
def tell(what, do):
    try:
        print(what, do())
    except OSError as error:
        print(what, errno.errorcode[error.errno])
number = lambda value: struct.pack('i', value)
header = bytes([0, 0, 1, 4, 0, 0, 0, 0])
four, six = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for what, it, to, control in [
    ('mark', four, '203.0.113.9', (1, 36, number(7))),
    ('mark 6', six, '2001:db8::9', (1, 36, number(7))),
    ('priority', four, '203.0.113.9', (1, 12, number(7))),
    ('no priority', four, '203.0.113.9', (1, 12, number(0))),
    ('service', four, '203.0.113.9', (0, 1, number(4))),
    ('unknown option', four, '203.0.113.9', (0, 7, bytes([0x9f, 4, 0, 0]))),
    ('hop by hop', six, '2001:db8::9', (41, 54, header)),
    ('destination', six, '2001:db8::9', (41, 59, header)),
]:
    tell(what, lambda: it.sendmsg([b'hi'], [control], 0, (to, 7780)))
tell('SO_MARK', lambda: four.setsockopt(1, 36, 0))
";

#[test]
fn rights_are_not_lent() {
    if root_is_alone() {
        return println!("skipped: in a user namespace of the tests there is no other user");
    }
    with_privilege("rights::rights_are_not_lent", || {
        // Root has them, a user hasn't, nor has root without capabilities, nor in a user namespace.
        let who: [&[&str]; 4] = [
            &["env"],
            &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
            &["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
            &["unshare", "--user", "--map-root-user"],
        ];
        let all: Vec<_> = backends().into_iter().flat_map(|backend| who.map(|who| (backend, who))).collect();
        run_all(
            &all,
            |(backend, who)| format!("{backend} {who:?}"),
            |(backend, who)| {
                let program = who.iter().chain(&["/usr/bin/python3", "-c", GUEST]);
                let natively = Run::native(&Stage::new().dir).program(program.clone()).run();
                let stage = Stage::new();
                let run = Run::new(backend, &stage.dir).allow_stage().arg("--stack=never");
                let run = run.arg("--allow=203.0.113.9").arg("--allow=2001:db8::9");
                let traced = run.program(program).run();
                let fits = natively.stdout == traced.stdout && natively.stdout.lines().count() == 9;
                if fits { Ok(()) } else { Err(format!("{natively:?}\n{traced:?}")) }
            },
        );
    });
}

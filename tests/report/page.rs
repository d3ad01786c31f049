//! The HTML report in a real browser: what it shows, its filters, and the keyboard.

use crate::browser::Browser;
use crate::made::{HOSTILE, crowd, hostile, leak, lines, stream, summary};
use crate::tool::{Folder, call};
use serde_json::json;
use std::time::Duration;

/// Rows that a table has in the document.
const ROWS: &str = "[...document.querySelectorAll('#panels > :not([hidden]) .grid-row')]";

fn page(folder: &Folder, events: &str) -> std::path::PathBuf {
    folder.file("events", events);
    let said = call(&folder.0, ["report", "events", "--html", "page.html"], b"");
    assert_eq!((said.status, said.stderr.as_str()), (0, ""), "{said:?}");
    folder.path("page.html")
}

/// Three programs, four kinds of leaks, a source file.
fn story(folder: &Folder) -> String {
    std::fs::create_dir(folder.path("src")).unwrap();
    folder.file("src/a.c", "one\ntwo\n  connect(the_leak);\nfour\nfive\nsix\nmain calls\neight\n");
    let mut events = vec![leak("203.0.113.5:80"); 3];
    let mut other = leak("203.0.113.6:443");
    other["exe"] = json!("/srv/updater");
    (other["pid"], other["tid"], other["ppid"]) = (json!(20), json!(20), json!(10));
    (other["process"], other["stack"]) = (json!("updater"), json!(null));
    let mut lookup = other.clone();
    (lookup["class"], lookup["address"]) = (json!("disclosure"), json!("203.0.113.53:53"));
    let mut server = leak("0.0.0.0:8080");
    (server["class"], server["syscall"]) = (json!("inbound"), json!("listen"));
    events.extend([other, lookup, server]);
    for (second, event) in events.iter_mut().enumerate() {
        event["time"] = json!(format!("2026-01-01T00:00:0{second}.250Z"));
    }
    let exit = json!({"v": 1, "time": "2026-01-01T00:00:06Z", "kind": "process", "pid": 20, "tid": 20, "ppid": 10,
        "process": "updater", "exe": "/srv/updater", "event": "exit", "signal": 9});
    lines(&events) + &lines(&[exit, summary(9, 6)])
}

#[test]
#[expect(clippy::too_many_lines, reason = "one visit to the page")]
fn it_shows_what_leaked_and_answers_to_the_keyboard() {
    let folder = Folder::new();
    let events = story(&folder);
    let file = page(&folder, &events);
    let Some(mut browser) = Browser::start() else { return };
    browser.prefers("light");
    browser.open(&file);
    let browser = &mut browser;

    assert_eq!(browser.text("document.title"), "6 leaks in 9 calls");
    let tiles = browser.text("document.querySelector('#tiles').innerText");
    for part in ["6\nleaks", "9\ncalls judged", "↗ outbound", "↙ inbound", "◉ disclosure"] {
        assert!(tiles.contains(part), "{part:?} in {tiles}");
    }
    assert_eq!(browser.js(&format!("{ROWS}.length")), 4);
    let first = browser.text(&format!("{ROWS}[0].innerText"));
    for part in ["outbound", "3", "connect TCP 203.0.113.5:80", "app", "dial", "a.c:3"] {
        assert!(first.contains(part), "{part:?} in {first:?}");
    }

    // The table by keyboard: the line chosen tells its stack, the blamed function and the source.
    browser.js("document.querySelector('#panel-kinds .grid-body').focus()");
    browser.press("ArrowDown");
    let details = browser.text("document.querySelector('#details').innerText");
    for part in ["203.0.113.5:80", "blocked (EPERM)", "no proxy or rule covers it", "/srv/app", "main"] {
        assert!(details.contains(part), "{part:?} in {details}");
    }
    assert_eq!(browser.text("document.querySelector('.excerpt .here').textContent"), "3  connect(the_leak);");
    let blamed = "document.querySelector('.tag.blame').closest('li').querySelector('.function').textContent";
    assert_eq!(browser.text(blamed), "dial");
    let chosen =
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).ariaSelected";
    assert_eq!(browser.text(chosen), "true");
    browser.press("End");
    assert!(!browser.text("document.querySelector('#details').innerText").contains("203.0.113.5:80"));
    browser.press("Enter");
    assert_eq!(browser.text("document.activeElement.id"), "details");
    browser.press("Escape");
    assert_eq!(browser.text("document.activeElement.getAttribute('role')"), "grid");

    // Search: / goes there, words narrow, the number shown is said.
    browser.press("/");
    assert_eq!(browser.text("document.activeElement.id"), "search");
    browser.type_in("updater 443");
    browser.js("new Promise(done => setTimeout(done, 60))");
    assert_eq!(browser.text("document.querySelector('#count').textContent"), "1 leak of 1 kind shown");
    browser.js("document.querySelector('#clear').click()");
    assert_eq!(browser.text("document.querySelector('#count').textContent"), "6 leaks of 4 kinds shown");

    // Classes are buttons that say whether they are pressed.
    browser.js("document.querySelector('button.tile.disclosure').focus()");
    browser.press("Enter");
    assert_eq!(browser.text("document.querySelector('button.tile.disclosure').ariaPressed"), "true");
    assert_eq!(browser.js(&format!("{ROWS}.map(row => row.innerText.includes('203.0.113.53:53'))")), json!([true]));
    browser.js("document.querySelector('.chip').click()");
    assert_eq!(browser.js(&format!("{ROWS}.length")), 4);

    // The timeline by keyboard.
    browser.js("document.querySelector('#timeline').focus()");
    browser.press("ArrowRight");
    assert_eq!(browser.text("document.querySelector('#count').textContent"), "1 leak of 1 kind shown");
    for _ in 0..300 {
        browser.press_with("ArrowRight", 8);
    }
    assert_eq!(browser.text("document.querySelector('#count').textContent"), "6 leaks of 4 kinds shown");
    browser.press("Escape");
    assert_eq!(browser.js("document.querySelectorAll('.chip').length"), 0);

    // Tabs by arrow keys: events, destinations, processes, stacks.
    browser.js("document.querySelector('#tab-kinds').focus()");
    browser.press("ArrowRight");
    assert_eq!(browser.text("document.activeElement.id"), "tab-events");
    assert_eq!(browser.js(&format!("{ROWS}.length")), 6);
    browser.press("ArrowRight");
    assert_eq!(browser.js(&format!("{ROWS}.length")), 4);
    browser.press("ArrowRight");
    let tree = "[...document.querySelectorAll('[role=treeitem]')].map(row => row.ariaLevel + ' ' + row.innerText)";
    let tree = browser.js(&format!("{tree}.join('|')"));
    let rows: Vec<_> = tree.as_str().unwrap().split('|').collect();
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows[0].starts_with("1 ") && rows[0].contains("process 9"), "{rows:?}");
    assert!(rows[1].starts_with("2 ") && rows[1].contains("app[10]"), "{rows:?}");
    assert!(rows[2].starts_with("3 ") && rows[2].contains("updater[20]"), "{rows:?}");
    assert!(rows[2].contains("ended by signal 9"), "{rows:?}");
    browser.js("document.querySelector('#panel-processes [role=tree]').focus()");
    for key in ["ArrowDown", "ArrowDown", "ArrowLeft"] {
        browser.press(key);
    }
    assert_eq!(browser.js("document.querySelectorAll('#panel-processes [role=treeitem]').length"), 2, "folded");

    browser.js(
        "document.querySelector('#tab-stacks').click(); document.querySelector('.icicle [tabindex=\"0\"]').focus()",
    );
    for _ in 0..3 {
        browser.press("ArrowDown");
    }
    assert_eq!(browser.text("document.activeElement.textContent"), "dial");
    browser.press("Enter");
    let details = browser.text("document.querySelector('#details').innerText");
    assert!(details.contains("dial") && details.contains("src/a.c:3"), "{details}");
    browser.picture("stacks-light");

    // Colours: dark and light are told apart by the system, and by the button.
    let background = "getComputedStyle(document.body).backgroundColor";
    let light = browser.text(background);
    browser.prefers("dark");
    browser.js("new Promise(done => setTimeout(done, 60))");
    let dark = browser.text(background);
    assert_ne!(light, dark);
    browser.picture("stacks-dark");
    browser.js("document.querySelector('#theme').click()");
    assert_eq!(browser.text(background), light);

    // Everything that can be clicked has a name and can be reached.
    let nameless = "[...document.querySelectorAll('button, input, [role=grid], [role=tree], [role=tablist]')]\
        .filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title)).map(e => e.outerHTML)";
    assert_eq!(browser.js(nameless), json!([]));
    assert!(browser.print() > 10_000);
    assert_eq!(browser.complaints, [""; 0]);
}

#[test]
fn no_text_of_a_stream_becomes_markup() {
    let folder = Folder::new();
    let mut events = vec![hostile(), leak("203.0.113.5:80")];
    events[1]["class"] = json!("__proto__");
    let file = page(&folder, &stream(&events));
    let Some(mut browser) = Browser::start() else { return };
    browser.open(&file);
    for tab in ["kinds", "events", "destinations", "processes", "stacks"] {
        browser.js(&format!("document.querySelector('#tab-{tab}').click()"));
        browser.js(
            "for (const e of [...document.querySelectorAll('.grid-row, [role=treeitem]')].slice(0, 20)) e.click()",
        );
    }
    browser.print();
    assert_eq!(browser.js("typeof window.pwned"), "undefined");
    assert_eq!(browser.js("document.images.length"), 0);
    assert_eq!(browser.js("document.scripts.length"), 2);
    let shown = browser.js("document.body.innerText.includes('</script><script>window.pwned=1')");
    assert_eq!(shown, true, "it is shown as the text that it is");
    let marks = "[...document.body.innerText].filter(c => /[\\u0000-\\u0008\\u001b\\u202e\\u2028]/.test(c)).length";
    assert_eq!(browser.js(marks), 0, "no control characters of {HOSTILE:?}");
    assert_eq!(browser.complaints, [""; 0]);
}

#[test]
fn a_hundred_thousand_events_stay_usable() {
    let folder = Folder::new();
    let file = page(&folder, &crowd(100_000));
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size < 4 << 20, "{size}");
    let Some(mut browser) = Browser::start() else { return };
    let loading = browser.open(&file);
    assert!(loading < Duration::from_secs(10), "{loading:?}");
    assert_eq!(browser.text("document.title"), "80000 leaks in 100000 calls");
    browser.js("document.querySelector('#allowed').click()");
    browser.js("document.querySelector('#tab-events').click()");
    let said = browser.text("document.querySelector('#count').textContent");
    assert!(said.starts_with("80,000 leaks and 20,000 allowed calls"), "{said}");
    // Of all rows there are, only those in sight are in the document.
    let grid = "document.querySelector('#panel-events .grid-body')";
    assert_eq!(browser.text(&format!("{grid}.ariaRowCount")), "100000");
    assert!(browser.js(&format!("{ROWS}.length")).as_u64().unwrap() < 200);
    browser.js(&format!("{grid}.focus()"));
    browser.press("End");
    assert_eq!(browser.text(&format!("{ROWS}.at(-1).ariaRowIndex")), "100000");
    // Sorting and searching all of them takes a moment, not more.
    let timed = browser.js(
        "new Promise(done => { const start = performance.now(); \
         document.querySelector('#panel-events .grid-head button').click(); \
         const search = document.querySelector('#search'); search.value = 'app 203.0.113.3'; \
         search.dispatchEvent(new Event('input')); \
         setTimeout(() => done([performance.now() - start, document.querySelector('#count').textContent]), 300); })",
    );
    assert!(timed[0].as_f64().unwrap() < 5_000.0, "{timed}");
    assert!(timed[1].as_str().unwrap().starts_with("11,4"), "{timed}");
    assert_eq!(browser.complaints, [""; 0]);
}

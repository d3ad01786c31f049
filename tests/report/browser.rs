//! Headless Chromium, spoken to by its debugging protocol over a pipe: JSON messages that end with a NUL.
//! It runs in a network namespace without any interface, so that a page that needs a network fails.

use crate::tool::Folder;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where Chromium reads and writes (`--remote-debugging-pipe`).
const READS: i32 = 3;
const WRITES: i32 = 4;

/// A browser with one page.
pub struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    next: u64,
    session: String,
    /// Exceptions, console messages and failed loads of the page.
    pub complaints: Vec<String>,
    _profile: Folder,
}

impl Browser {
    /// Starts one, unless `SOCKSTRACE_WITHOUT` names chromium.
    pub fn start() -> Option<Self> {
        let without = std::env::var("SOCKSTRACE_WITHOUT").unwrap_or_default();
        if without.split(',').any(|name| name == "chromium") {
            eprintln!("report: not run, as SOCKSTRACE_WITHOUT has it: chromium");
            return None;
        }
        let profile = Folder::new();
        let ((reads, to), (from, writes)) = (crate::support::run::pipe(), crate::support::run::pipe());
        let mut command = Command::new("chromium");
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", profile.0.display())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        // Out of each other's way first.
        let (reads, writes) = (
            crate::support::run::duplicate_high(reads.as_raw_fd()),
            crate::support::run::duplicate_high(writes.as_raw_fd()),
        );
        let fds = [(reads.as_raw_fd(), READS), (writes.as_raw_fd(), WRITES)];
        // SAFETY: unshare and dup2 are system calls without memory of ours.
        unsafe {
            command.pre_exec(move || {
                if libc::unshare(libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                for (from, to) in fds {
                    if libc::dup2(from, to) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("chromium starts (install it, or set SOCKSTRACE_WITHOUT=chromium)");
        drop((reads, writes));
        let mut browser = Self {
            child,
            to: to.into(),
            from: BufReader::new(from.into()),
            next: 0,
            session: String::new(),
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned).unwrap();
        for domain in ["Runtime.enable", "Page.enable", "Log.enable", "Network.enable"] {
            browser.call(domain, json!({}));
        }
        browser.window(1400, 1000);
        Some(browser)
    }

    #[expect(clippy::needless_pass_by_value, reason = "they are made for the call")]
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("chromium listens");
        loop {
            let mut answer = Vec::new();
            self.from.read_until(0, &mut answer).unwrap();
            assert_eq!(answer.pop(), Some(0), "chromium has ended");
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            match answer["method"].as_str() {
                Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded") => {
                    self.complaints.push(answer["params"].to_string());
                }
                Some("Network.requestWillBeSent") => {
                    let url = answer["params"]["request"]["url"].as_str().unwrap();
                    if !url.starts_with("file:///") {
                        self.complaints.push(format!("asks for {url}"));
                    }
                }
                _ if answer["id"] == self.next => {
                    assert!(answer.get("error").is_none(), "{method}: {answer}");
                    return answer["result"].clone();
                }
                _ => {}
            }
        }
    }

    pub fn window(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    pub fn prefers(&mut self, theme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": theme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Opens a file and waits until its script has run; returns how long that took.
    pub fn open(&mut self, page: &Path) -> Duration {
        let started = Instant::now();
        self.call("Page.navigate", json!({"url": format!("file://{}", page.display())}));
        while self.js("location.protocol === 'file:' && document.readyState === 'complete'") != json!(true) {
            assert!(started.elapsed() < Duration::from_secs(60), "the page doesn't load");
            std::thread::sleep(Duration::from_millis(10));
        }
        started.elapsed()
    }

    /// The value of an expression (of a promise: what it resolves to).
    pub fn js(&mut self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", ask);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    pub fn text(&mut self, expression: &str) -> String {
        self.js(expression).as_str().unwrap_or_else(|| panic!("{expression} is no text")).to_owned()
    }

    /// Presses a key as a keyboard would.
    pub fn press(&mut self, key: &str) {
        self.press_with(key, 0);
    }

    /// With modifiers: 8 is Shift.
    pub fn press_with(&mut self, key: &str, modifiers: u32) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "End" => (35, ""),
            "Home" => (36, ""),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            "/" => (191, "/"),
            other => panic!("{other}"),
        };
        let mut event = json!({"type": if text.is_empty() { "rawKeyDown" } else { "keyDown" }, "key": key,
            "windowsVirtualKeyCode": code, "modifiers": modifiers});
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", event.clone());
        event["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", event);
    }

    /// Types into what has the focus.
    pub fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// The page as it would be printed: how many bytes of PDF.
    pub fn print(&mut self) -> usize {
        self.call("Page.printToPDF", json!({}))["data"].as_str().unwrap().len()
    }

    /// Keeps a picture where `SOCKSTRACE_PICTURES` names a folder, for somebody to look at.
    pub fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("SOCKSTRACE_PICTURES") else { return };
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let base64 = picture["data"].as_str().unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png.base64")), base64).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its processes are a group of their own.
        // SAFETY: no memory is involved.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

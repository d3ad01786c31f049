//! `--sarif`: SARIF 2.1.0 (OASIS). Each distinct leak is a result at the blamed file and line, with its stack,
//! the same as a code flow from `main` to the call, and a fingerprint by which CI systems know it again.

use super::leaks::Leak;
use super::record::Frame;
use super::source::{Root, file_uri};
use super::{End, Report, clock};
use crate::policy::Class;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::Path;

/// A SARIF log.
pub(super) struct Sarif(Box<dyn Write>);

impl Sarif {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        Self(out)
    }
}

/// The name of the base of relative URIs.
const BASE: &str = "SRCROOT";

impl Report for Sarif {
    fn finish(&mut self, end: &End<'_>) -> io::Result<()> {
        let head = json!({
            "tool": {"driver": {
                "name": "sockstrace",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": CLASSES.iter().map(|class| rule(*class)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "originalUriBaseIds": {BASE: {"uri": end.root.uri()}},
            "invocations": [invocation(end)],
        });
        // Results one by one: there may be many.
        write!(
            self.0,
            "{{\"$schema\":\"https://json.schemastore.org/sarif-2.1.0.json\",\"version\":\"2.1.0\",\"runs\":["
        )?;
        let head = head.to_string();
        write!(self.0, "{},\"results\":[", head.strip_suffix('}').unwrap_or(&head))?;
        let (listed, gone) = (end.leaks.list(), end.diff.map(|diff| diff.gone.as_slice()).unwrap_or_default());
        let state = |leak: &Leak| end.diff.map(|diff| if diff.is_new(leak) { "new" } else { "unchanged" });
        let all = listed.iter().map(|leak| (leak, state(leak)));
        for (index, (leak, state)) in all.chain(gone.iter().map(|leak| (leak, Some("absent")))).enumerate() {
            self.0.write_all(if index == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut self.0, &result(leak, state, end.root))?;
        }
        writeln!(self.0, "\n]}}]}}")?;
        self.0.flush()
    }
}

const CLASSES: [Class; 4] = [Class::Outbound, Class::Inbound, Class::Disclosure, Class::Proxy];

fn rule(class: Class) -> Value {
    let (name, short, full, severity) = match class {
        Class::Outbound => (
            "TrafficPastTheProxy",
            "Traffic past the proxy",
            "The program sends to, or connects to, an address that is neither a proxy nor allowed: the network sees \
             who talks to whom.",
            "8.0",
        ),
        Class::Inbound => (
            "ReachableFromOutside",
            "Reachable from outside",
            "The program listens, or receives, where others than the allowed can reach it.",
            "7.0",
        ),
        Class::Disclosure => (
            "HostNetworkShown",
            "The host's network shows itself",
            "Without a packet, the program learns the host's addresses or routes, which it can then tell to others \
             through the proxy.",
            "5.0",
        ),
        Class::Proxy => (
            "ProxyMisused",
            "The proxy is misused",
            "What the program says to the proxy lacks the isolation, the credentials or the names that were asked for.",
            "6.0",
        ),
    };
    json!({
        "id": rule_id(class.name()),
        "name": name,
        "shortDescription": {"text": short},
        "fullDescription": {"text": full},
        "help": {"text": "Send the traffic through the proxy, or allow the destination with --allow (listening: \
            --allow-incoming) if it is none of the network's business. `sockstrace learn` writes such rules."},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["security", "privacy"], "security-severity": severity, "precision": "very-high"},
    })
}

fn rule_id(class: &str) -> String {
    format!("sockstrace/{class}")
}

fn invocation(end: &End<'_>) -> Value {
    let mut invocation = Map::new();
    invocation.insert("executionSuccessful".into(), end.warnings.is_empty().into());
    if let Some(first) = end.totals.first {
        invocation.insert("startTimeUtc".into(), clock(first).into());
    }
    if let Some(last) = end.totals.last {
        invocation.insert("endTimeUtc".into(), clock(last).into());
    }
    if let Some(exit) = end.totals.exit {
        invocation.insert("exitCode".into(), exit.into());
    }
    let notifications: Vec<_> =
        end.warnings.iter().map(|warning| json!({"level": "warning", "message": {"text": warning}})).collect();
    if !notifications.is_empty() {
        invocation.insert("toolExecutionNotifications".into(), notifications.into());
    }
    invocation.into()
}

fn result(leak: &Leak, state: Option<&str>, root: &Root) -> Value {
    let mut text = format!("{}, {}", leak.headline(), leak.done());
    if !leak.reason.is_empty() {
        text.push_str(": ");
        text.push_str(&leak.reason);
    }
    let mut result = json!({
        "ruleId": rule_id(&leak.class),
        "level": "error",
        "kind": "fail",
        "message": {"text": text},
        "occurrenceCount": leak.count,
        "partialFingerprints": {"sockstraceLeak/v1": leak.fingerprints.leak.hex()},
        "locations": [blamed_location(leak, root)],
        "properties": properties(leak),
    });
    let index = CLASSES.iter().position(|class| class.name() == leak.class);
    let mut put = |key: &str, value: Value| {
        if let Value::Object(members) = &mut result {
            members.insert(key.into(), value);
        }
    };
    if let Some(index) = index {
        put("ruleIndex", index.into());
    }
    if let Some(state) = state {
        put("baselineState", state.into());
    }
    if !leak.stack.is_empty() {
        let frames: Vec<_> = leak.stack.iter().map(|frame| stack_frame(frame, leak, root)).collect();
        put("stacks", json!([{"message": {"text": "from the call outwards"}, "frames": frames}]));
        // A code flow's steps are in the order of execution.
        let steps: Vec<_> = leak
            .stack
            .iter()
            .rev()
            .map(|frame| json!({"location": location(frame, leak, root, Some(frame.name()))}))
            .collect();
        put("codeFlows", json!([{"threadFlows": [{"locations": steps}]}]));
    }
    result
}

fn properties(leak: &Leak) -> Value {
    let known = [
        ("class", Some(&leak.class)),
        ("call", Some(&leak.call)),
        ("destination", Some(&leak.destination)),
        ("program", Some(&leak.program)),
        ("exe", leak.exe.as_ref()),
        ("rule", leak.rule.as_ref()),
    ];
    let known = known.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?.clone().into())));
    known.collect::<Map<_, _>>().into()
}

/// Where the result is shown. Without a known line it is the program's file: some readers refuse results
/// that are nowhere.
fn blamed_location(leak: &Leak, root: &Root) -> Value {
    let nothing = Frame::default();
    location(leak.blame().unwrap_or(&nothing), leak, root, None)
}

fn location(frame: &Frame<'_>, leak: &Leak, root: &Root, message: Option<String>) -> Value {
    let mut location = Map::new();
    let artifact = match (frame.file.as_deref(), frame.module.as_deref().or(leak.exe.as_deref())) {
        (Some(file), _) => match root.name(file) {
            (uri, true) => Some(json!({"uri": uri, "uriBaseId": BASE})),
            (uri, false) => Some(json!({"uri": uri})),
        },
        (None, Some(module)) if module.starts_with('/') => Some(json!({"uri": file_uri(Path::new(module))})),
        (None, _) => None,
    };
    if let Some(artifact) = artifact {
        let mut physical = json!({"artifactLocation": artifact});
        let line = frame.line.filter(|line| *line > 0 && frame.file.is_some());
        if let (Some(line), Value::Object(members)) = (line, &mut physical) {
            members.insert("region".into(), json!({"startLine": line}));
        }
        location.insert("physicalLocation".into(), physical);
    }
    let logical = match &frame.function {
        Some(function) => json!({"fullyQualifiedName": &**function, "kind": "function"}),
        None => json!({"name": frame.module.as_deref().unwrap_or(&leak.program), "kind": "module"}),
    };
    location.insert("logicalLocations".into(), json!([logical]));
    if let Some(text) = message {
        location.insert("message".into(), json!({"text": text}));
    }
    location.into()
}

fn stack_frame(frame: &Frame<'_>, leak: &Leak, root: &Root) -> Value {
    let mut shown = Map::new();
    shown.insert("location".into(), location(frame, leak, root, Some(frame.name())));
    if let Some(module) = &frame.module {
        shown.insert("module".into(), (**module).into());
    }
    if let Some(tid) = leak.tid {
        shown.insert("threadId".into(), tid.into());
    }
    let known = [("ip", &frame.ip), ("offset", &frame.offset), ("buildId", &frame.build_id), ("how", &frame.how)];
    let mut properties: Map<_, _> =
        known.into_iter().filter_map(|(key, text)| Some((key.to_owned(), (**text.as_ref()?).into()))).collect();
    if frame.inlined == Some(true) {
        properties.insert("inlined".into(), true.into());
    }
    if !properties.is_empty() {
        shown.insert("properties".into(), properties.into());
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::super::leaks::Leaks;
    use super::super::leaks::tests::{add, leak};
    use super::*;

    fn first(value: &Value) -> Value {
        let mut leaks = Leaks::default();
        add(&mut leaks, value);
        result(&leaks.list()[0], None, &Root::at("/srv/src"))
    }

    #[test]
    fn a_result_is_at_the_blamed_line() {
        let result = first(&leak());
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"], json!({"uri": "a.c", "uriBaseId": "SRCROOT"}));
        assert_eq!(place["region"]["startLine"], 10);
        assert_eq!(result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"], "dial");
        assert_eq!(result["stacks"][0]["frames"][0]["module"], "/lib/libc.so.6");
        let steps = result["codeFlows"][0]["threadFlows"][0]["locations"].as_array().unwrap();
        let names: Vec<_> = steps.iter().map(|step| step["location"]["message"]["text"].clone()).collect();
        assert_eq!(names, ["main", "dial", "connect"]);
    }

    #[test]
    fn without_a_stack_it_is_at_the_program() {
        let mut bare = leak();
        bare["stack"] = Value::Null;
        let result = first(&bare);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(*place, json!({"artifactLocation": {"uri": "file:///srv/app"}}));
        assert!(result.get("stacks").is_none() && result.get("codeFlows").is_none());
    }
}

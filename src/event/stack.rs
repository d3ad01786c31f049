//! Stacks in events.

use crate::symbols;
use crate::unwind::How;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// The frames of a thread, innermost first. Written as `stack`, with `stack_truncated` and `stack_partial`
/// beside it where there is something to be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stack {
    /// The frames, innermost first.
    pub frames: Vec<Frame>,
    /// Why it ends before the outermost frame, or why there is none at all.
    pub truncated: Option<String>,
    /// Why the thread's registers were not to be had, so that the frames are the best that could be found.
    pub partial: Option<String>,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// The program counter: of the innermost frame where it stands, of others the return address.
    #[serde(serialize_with = "hexadecimal")]
    pub ip: u64,
    /// The mapped file.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub module: Option<Arc<str>>,
    /// Its build-id in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub build_id: Option<Arc<str>>,
    /// The address in the module, as its own symbol tables have it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hexadecimal_or_none")]
    pub offset: Option<u64>,
    /// The function, demangled.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub function: Option<Arc<str>>,
    /// The source file.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub file: Option<Arc<str>>,
    /// The line in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The function was inlined into the one of the next frame.
    pub inlined: bool,
    /// How the frame was found, where that is less than certain.
    #[serde(skip_serializing_if = "is_certain", serialize_with = "word")]
    pub how: How,
    /// The frame is where a signal handler returns to: the next one was interrupted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub signal: bool,
}

impl Stack {
    /// No stack could be had.
    #[must_use]
    pub fn missing(why: &str) -> Self {
        Self { truncated: Some(why.to_owned()), ..Self::default() }
    }
}

impl Frame {
    /// Of a frame nothing but the address is known.
    #[must_use]
    pub fn of_address(ip: u64) -> Self {
        Self {
            ip,
            module: None,
            build_id: None,
            offset: None,
            function: None,
            file: None,
            line: None,
            inlined: false,
            how: How::Cfi,
            signal: false,
        }
    }
}

impl From<symbols::Frame> for Frame {
    fn from(frame: symbols::Frame) -> Self {
        Self {
            ip: frame.ip,
            module: frame.module,
            build_id: frame.build_id,
            offset: frame.offset,
            function: frame.function,
            file: frame.file,
            line: frame.line,
            inlined: frame.inlined,
            how: frame.how,
            signal: frame.signal,
        }
    }
}

/// The keys of an event's stack.
#[expect(clippy::ref_option, reason = "serde gives references")]
pub(super) fn serialize<S: Serializer>(stack: &Option<Arc<Stack>>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(stack) = stack {
        if !stack.frames.is_empty() {
            map.serialize_entry("stack", &stack.frames)?;
        }
        if let Some(why) = &stack.truncated {
            map.serialize_entry("stack_truncated", why)?;
        }
        if let Some(why) = &stack.partial {
            map.serialize_entry("stack_partial", why)?;
        }
    }
    map.end()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn hexadecimal<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

#[expect(clippy::ref_option, reason = "serde gives references")]
fn hexadecimal_or_none<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => hexadecimal(number, serializer),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::ref_option, reason = "serde gives references")]
fn shared<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => serializer.serialize_str(text),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_certain(how: &How) -> bool {
    *how == How::Cfi
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn word<S: Serializer>(how: &How, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(how.as_str())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::event::tests::call;

    /// A frame of a function in a module.
    pub(crate) fn frame(module: &str, function: &str, place: Option<(&str, u32)>) -> Frame {
        Frame {
            ip: 0x5500_0000_1004,
            module: Some(module.into()),
            build_id: None,
            offset: Some(0x1004),
            function: Some(function.into()),
            file: place.map(|place| place.0.into()),
            line: place.map(|place| place.1),
            inlined: false,
            how: How::Cfi,
            signal: false,
        }
    }

    #[test]
    fn frames_have_the_contracts_keys() {
        let mut inner = frame("/lib/libc.so.6", "connect", None);
        inner.build_id = Some("ab12".into());
        let mut outer = frame("/bin/p", "main", Some(("/src/p.c", 12)));
        (outer.inlined, outer.how, outer.signal) = (true, How::Guess, true);
        outer.offset = None;
        let stack = Stack { frames: vec![inner, outer], truncated: Some("cut".into()), partial: None };
        let event = call(|call| call.stack = Some(Arc::new(stack)));
        let text = serde_json::to_string(&event).unwrap();
        let keys = "\"stack\":[{\"ip\":\"0x550000001004\",\"module\":\"/lib/libc.so.6\",\"build_id\":\"ab12\",\
                    \"offset\":\"0x1004\",\"function\":\"connect\",\"inlined\":false},\
                    {\"ip\":\"0x550000001004\",\"module\":\"/bin/p\",\"function\":\"main\",\"file\":\"/src/p.c\",\
                    \"line\":12,\"inlined\":true,\"how\":\"guess\",\"signal\":true}],\"stack_truncated\":\"cut\"}";
        assert!(text.ends_with(keys), "{text}");
    }

    #[test]
    fn no_frames_no_stack() {
        let event = call(|call| call.stack = Some(Arc::new(Stack::missing("out of reach"))));
        let value = serde_json::to_value(&event).unwrap();
        assert_eq!((value.get("stack"), &value["stack_truncated"]), (None, &"out of reach".into()));
    }
}

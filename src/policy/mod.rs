//! (operation, socket) → verdict, reason, rule and class. Pure: no I/O, no clock, no state.
//!
//! A [`Policy`] is built once from [`PolicyOptions`]; [`Policy::judge`] then looks addresses up in hash
//! tables, so that what a call costs doesn't grow with the number of rules, and allocates nothing for
//! a call that is allowed.

mod compiled;
mod judge;
mod nets;
mod proxy;
mod rule;
mod sockets;
pub mod strict;
mod unix;

pub use judge::{Policy, PolicyOptions, Rules};
pub use proxy::{Credentials, Endpoint, Proxy, Scheme, redact};
pub use rule::Rule;
pub use unix::{RESOLVERS, Resolver, resolver_at};
pub(crate) use unix::{UnixGlobs, check_glob};

use serde::Serialize;
use std::borrow::Cow;
use std::fmt;

/// What kind of leak an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Traffic past the proxy.
    Outbound,
    /// Reachable from outside.
    Inbound,
    /// The host's network shows itself, without a packet.
    Disclosure,
    /// The proxy is misused.
    Proxy,
}

impl Class {
    /// The name in events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Disclosure => "disclosure",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the policy says of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'p> {
    /// The class of the leak; `None` where the operation is allowed.
    pub leak: Option<Class>,
    /// Why, in words for a person.
    pub reason: Cow<'static, str>,
    /// The rule that decided, as the user wrote it (a proxy's password is masked); `None` for a default.
    pub rule: Option<&'p str>,
}

impl<'p> Verdict<'p> {
    /// Whether the operation is a leak.
    #[must_use]
    pub fn is_leak(&self) -> bool {
        self.leak.is_some()
    }

    pub(crate) fn allowed(reason: &'static str) -> Self {
        Self { leak: None, reason: Cow::Borrowed(reason), rule: None }
    }

    fn allowed_by(rule: Option<&'p str>, reason: &'static str) -> Self {
        Self { leak: None, reason: Cow::Borrowed(reason), rule }
    }

    fn leak(class: Class, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { leak: Some(class), reason: reason.into(), rule: None }
    }
}

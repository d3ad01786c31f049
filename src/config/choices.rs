//! Options that take one of a few words.

use crate::event::{Action, Judgement};

/// A type with a word for each of its values.
pub(super) trait Choice: Copy + 'static {
    const CHOICES: &'static [(&'static str, Self)];

    /// The value for a word, or the words that there are.
    fn from_word(word: &str) -> Result<Self, String> {
        let found = Self::CHOICES.iter().find(|(name, _)| *name == word);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = Self::CHOICES.iter().map(|(name, _)| *name).collect();
            format!("accepted: {}", words.join(", "))
        })
    }
}

macro_rules! choices {
    ($($(#[$doc:meta])* $visible:vis enum $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        $visible enum $name { $($(#[$variant_doc])* $variant,)* }

        impl Choice for $name {
            const CHOICES: &'static [(&'static str, Self)] = &[$(($word, Self::$variant),)*];
        }
    )*};
}

choices! {
    /// `--backend`
    pub enum BackendChoice {
        /// The best that works.
        #[default]
        Auto = "auto",
        /// Seccomp user notification.
        Seccomp = "seccomp",
        /// Ptrace.
        Ptrace = "ptrace",
        /// Programs in the kernel.
        Ebpf = "ebpf",
    }

    /// `--on-leak`
    pub enum OnLeak {
        /// Let it go and record it.
        Log = "log",
        /// Refuse it.
        #[default]
        Block = "block",
        /// Send it through the first proxy.
        Redirect = "redirect",
        /// Kill the process.
        Kill = "kill",
        /// Kill the whole tree.
        KillTree = "kill-tree",
        /// End the process with SIGABRT and a core.
        Core = "core",
    }

    /// `--isolate-by`
    pub enum IsolateBy {
        /// Each connection has credentials of its own.
        #[default]
        Connection = "connection",
        /// Connections to the same address and port share them.
        Destination = "destination",
        /// Connections of the same process share them.
        Process = "process",
        /// All connections share them.
        Run = "run",
    }

    /// `--isolate-format`
    pub enum IsolateFormat {
        /// Username and password are random.
        #[default]
        Random = "random",
        /// Tor's extended format: the password is random, the username says what it is for.
        Tor = "tor",
    }

    /// `--leftover`
    pub enum Leftover {
        /// Stay until the last process has ended.
        #[default]
        Wait = "wait",
        /// End them.
        Kill = "kill",
        /// Return PROGRAM's exit status at once and go on judging behind it.
        Background = "background",
    }

    /// `--trace`
    pub enum Trace {
        /// Leaks alone (and the summary).
        #[default]
        Leaks = "leaks",
        /// Every judged call and every process.
        All = "all",
    }

    /// `--format`
    pub enum Format {
        /// Lines for a person.
        #[default]
        Human = "human",
        /// JSON lines.
        Jsonl = "jsonl",
        /// The format of sockwho.
        Sockwho = "sockwho",
    }

    pub(super) enum Disclosure {
        #[default]
        Ignore = "ignore",
        Leak = "leak",
    }

    pub(super) enum Unix {
        #[default]
        Allow = "allow",
        Leak = "leak",
    }

    pub(super) enum Incoming {
        #[default]
        Allow = "allow",
        Block = "block",
    }

    pub(super) enum SocksAuth {
        #[default]
        Any = "any",
        Required = "required",
        Tor = "tor",
    }

    pub(super) enum Syscalls {
        #[default]
        All = "all",
        Strict = "strict",
    }

    /// `--live`
    pub enum Live {
        /// Where standard error is a terminal, and PROGRAM's output goes elsewhere.
        #[default]
        Auto = "auto",
        /// Wherever standard error is a terminal.
        Always = "always",
        /// Nowhere.
        Never = "never",
    }

    /// `--stack`
    pub enum Stack {
        /// On leaks.
        #[default]
        Auto = "auto",
        /// On every event.
        Always = "always",
        /// Never.
        Never = "never",
    }
}

impl OnLeak {
    /// What an event says that was done.
    #[must_use]
    pub fn action(self) -> Action {
        match self {
            Self::Log => Action::Continue,
            Self::Block => Action::Block,
            Self::Redirect => Action::Redirect,
            Self::Kill => Action::Kill,
            Self::KillTree => Action::KillTree,
            Self::Core => Action::Core,
        }
    }
}

impl Trace {
    /// Whether a call with this verdict is written.
    #[must_use]
    pub fn writes(self, verdict: Judgement) -> bool {
        self == Self::All || verdict == Judgement::Leak
    }

    /// Whether process events are written.
    #[must_use]
    pub fn writes_processes(self) -> bool {
        self == Self::All
    }
}

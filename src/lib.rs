//! sockstrace: a proxy-leak detector and socket tracer for Linux.
//!
//! A call takes one way: a *backend* stops it ([`backends`]), the [`pipeline`] decodes it
//! ([`operation`]), asks the [`policy`], acts ([`action`]) and records an [`event`], which an [`output`]
//! writes. See the README for what it is for and what it protects against.

pub mod action;
pub mod aside;
pub mod attach;
pub mod backends;
pub mod background;
pub mod blame;
pub mod capture;
pub mod cli;
pub mod config;
pub mod dns;
pub mod doctor;
pub mod event;
pub mod isolate;
pub mod learn;
pub mod operation;
pub mod output;
pub mod pipeline;
pub mod policy;
pub mod proxy;
pub mod redirect;
pub mod relay;
pub mod report;
pub mod run;
pub mod stacks;
pub mod symbols;
pub mod tui;
pub mod unwind;
pub mod watch;

//! What is spoken to proxies.

pub mod client;

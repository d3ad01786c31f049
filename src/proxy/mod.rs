//! What is spoken to proxies.

pub mod client;
pub mod handshake;
pub mod isolation;

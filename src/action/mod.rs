//! What is done with a judged call: performed on the tracee's behalf, refused, or ended with its process.

pub mod end;
pub mod identity;
pub mod interrupt;
pub mod perform;

//! Whether the kernel asks LSM programs: they may be refused (lockdown), and they can be loaded and attached where nobody
//! asks them, because `bpf` isn't in the list of security modules (`lsm=` on the kernel's command line).

use crate::guards::Guard;
use crate::programs::brief;
use aya::programs::Lsm;
use aya::{Btf, EbpfLoader};
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

#[cfg(have_programs)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/trial.bpf.o")));
#[cfg(not(have_programs))]
const OBJECT: Option<&[u8]> = None;

/// A message that only the trial refuses.
const MESSAGE: [u8; 4711] = [0; 4711];

/// The security modules that the kernel asks.
const MODULES: &str = "/sys/kernel/security/lsm";

/// Whether `bpf` is among them, as far as that can be read.
pub fn is_lsm_listed() -> bool {
    std::fs::read_to_string(MODULES).is_ok_and(|list| list.trim().split(',').any(|module| module == "bpf"))
}

/// Attaches a program that refuses a message of ours, and sends it.
pub fn lsm_works(btf: &Btf) -> Result<(), String> {
    let object = OBJECT.ok_or(crate::programs::NO_PROGRAMS)?;
    if !is_lsm_listed() {
        return Err(format!("`bpf` is not in {MODULES} (lsm= on the kernel's command line)"));
    }
    let (own, bytes) = (crate::tree::own(), MESSAGE.len() as u32);
    let mut bpf = EbpfLoader::new()
        .btf(Some(btf))
        .override_global("own_tgid", &own, true)
        .override_global("trial_bytes", &bytes, true)
        .load(object)
        .map_err(|error| error.to_string())?;
    let program = bpf.program_mut("trial").and_then(|program| <&mut Lsm>::try_from(program).ok());
    let program = program.ok_or("there is no program trial")?;
    program.load(Guard::Messages.hook(), btf).and_then(|()| program.attach()).map_err(|error| brief(&error))?;
    let (mut sender, _receiver) = UnixStream::pair().map_err(|error| error.to_string())?;
    match sender.write(&MESSAGE) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("the kernel doesn't ask LSM programs".into()),
    }
}

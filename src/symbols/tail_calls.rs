//! The functions between two frames that ended by jumping on.

use super::dwarf::{Fuel, Named, Search};
use super::{ANSWERS, ModuleSymbols, Time};
use crate::unwind::modules::FixedCall;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Whether it lies in the module of the caller (rather than of the called), and the address behind the jump.
type Jump = (bool, u64);

/// The address that runs, the caller's module, and the address behind its call.
type Pair = (u64, u64, u64);

/// What was found before.
#[derive(Default)]
pub(super) struct TailCalls {
    known: Mutex<HashMap<Pair, Arc<[Jump]>>>,
}

impl ModuleSymbols {
    /// The tail calls between the call of `caller` that stands before `back` and our function at an address, the
    /// innermost first.
    pub(super) fn tail_calls(&self, address: u64, caller: &Self, back: u64, time: &mut Time) -> Arc<[Jump]> {
        let known = || self.tail_calls.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address, caller.module.id(), back);
        if let Some(known) = known().get(&key) {
            return Arc::clone(known);
        }
        if time.is_up() {
            return [].into();
        }
        let found: Arc<[Jump]> = self.find_tail_calls(address, caller, back, time).unwrap_or_default().into();
        let mut known = known();
        if known.len() >= ANSWERS {
            known.clear();
        }
        known.insert(key, Arc::clone(&found));
        found
    }

    fn find_tail_calls(&self, address: u64, caller: &Self, back: u64, time: &mut Time) -> Option<Vec<Jump>> {
        let runs = self.at(address, time).start?;
        let is_own = self.module.id() == caller.module.id();
        // As a rule the function that was called is the one that runs: nothing more is read then.
        let called = caller.module.fixed_call_before(back)?;
        if is_own && called == FixedCall::To(runs) {
            return None;
        }
        let modules: &[&Self] = if is_own { &[self] } else { &[caller, self] };
        let fuel = Fuel::new();
        let calls_at = |(module, address): (usize, u64)| {
            let symbols = modules.get(module)?;
            symbols.debug()?.calls(&symbols.module, address, &fuel)
        };
        let named = |name: &[u8]| {
            // What one module has of another is in the small table; the full one is for what it keeps to itself.
            let all = || modules.iter().enumerate();
            let exported = all().find_map(|(at, symbols)| Some((at, symbols.module.elf()?.dynamic_symbol(name)?)));
            let defined = exported.or_else(|| all().find_map(|(at, symbols)| Some((at, symbols.defines(name)?))));
            let is_imported =
                || all().any(|(_, symbols)| symbols.module.elf().is_some_and(|elf| elf.imports(name)));
            match defined {
                Some(spot) => Named::At(spot),
                None if is_imported() => Named::Elsewhere,
                None => Named::Unknown,
            }
        };
        let goal = modules.len().saturating_sub(1);
        let jumps = Search::new(&calls_at, &named, (goal, runs)).from((0, back))?;
        Some(jumps.into_iter().map(|(module, back)| (module != goal, back)).collect())
    }

    /// Where the module has a function of this name, exported or not.
    fn defines(&self, name: &[u8]) -> Option<u64> {
        let all = [self.module.elf(), self.module.separate()];
        all.into_iter().flatten().find_map(|elf| elf.symbol(name))
    }
}

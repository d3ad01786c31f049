//! Split DWARF: what a skeleton unit leaves to a `.dwo` file or to a `.dwp` of them all.

use super::Slice;
use crate::unwind::modules::elf::Elf;
use crate::unwind::modules::open;
use gimli::{Dwarf, DwarfPackage, DwoId, EndianSlice, LittleEndian, SectionId, Unit};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Files that are kept mapped.
const FILES: usize = 256;

/// The files that were met.
#[derive(Default)]
pub(super) struct Files {
    known: Mutex<HashMap<PathBuf, Option<Arc<Elf>>>>,
}

impl Files {
    fn open(&self, path: &Path) -> Option<Arc<Elf>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FILES {
            known.clear();
        }
        known.entry(path.to_owned()).or_insert_with(|| open::elf(path).map(Arc::new)).clone()
    }

    /// Calls with the unit that was split off, if it can be found.
    pub fn with<T>(
        &self,
        parent: &Dwarf<Slice<'_>>,
        skeleton: &Unit<Slice<'_>>,
        module: &str,
        use_it: impl FnOnce(&Dwarf<Slice<'_>>, &Unit<Slice<'_>>) -> T,
    ) -> Option<T> {
        let id = skeleton.dwo_id?;
        let name = parent.attr_string(skeleton, skeleton.dwo_name().ok()??).ok()?;
        let name = PathBuf::from(String::from_utf8_lossy(name.slice()).into_owned());
        let folder = skeleton.comp_dir.map(|folder| PathBuf::from(&*String::from_utf8_lossy(folder.slice())));
        let own = self.open(&folder.unwrap_or_default().join(&name));
        if let Some(own) = &own
            && let Ok(mut dwarf) = Dwarf::load(load(own))
        {
            dwarf.make_dwo(parent);
            if let Some(unit) = unit_of(&dwarf, id, skeleton) {
                return Some(use_it(&dwarf, &unit));
            }
        }
        let package = self.open(Path::new(&format!("{module}.dwp")))?;
        let empty = EndianSlice::new(&[], LittleEndian);
        let package = DwarfPackage::load(load(&package), empty).ok()?;
        let dwarf = package.find_cu(id, parent).ok()??;
        let unit = unit_of(&dwarf, id, skeleton)?;
        Some(use_it(&dwarf, &unit))
    }
}

fn load<'a>(elf: &'a Elf) -> impl Fn(SectionId) -> Result<Slice<'a>, gimli::Error> {
    move |id| {
        let data = id.dwo_name().and_then(|name| elf.data(name)).or_else(|| match id {
            SectionId::DebugCuIndex | SectionId::DebugTuIndex => elf.data(id.name()),
            _ => None,
        });
        Ok(EndianSlice::new(data.unwrap_or_default(), LittleEndian))
    }
}

fn unit_of<'a>(dwarf: &Dwarf<Slice<'a>>, id: DwoId, skeleton: &Unit<Slice<'a>>) -> Option<Unit<Slice<'a>>> {
    let mut headers = dwarf.units();
    while let Some(header) = headers.next().ok()? {
        let mut unit = dwarf.unit(header).ok()?;
        if unit.dwo_id == Some(id) {
            unit.copy_relocated_attributes(skeleton);
            return Some(unit);
        }
    }
    None
}

//! Matching a module's imports with what the host provides, and its needs with the limits.

use dunlin_base::ValueType;
use dunlin_instrument::Map;

use crate::error::Error;
use crate::host::Host;
use crate::limits::Limits;
use crate::module::{ImportKind, ModuleInfo};

/// An imported function that the host provides.
#[derive(Debug)]
pub(crate) struct ImportedFunction {
    pub(crate) number: u32,
    pub(crate) params: Vec<ValueType>,
    pub(crate) results: Vec<ValueType>,
}

/// All imports of a module, in its order.
pub(crate) type Imports = Vec<ImportedFunction>;

/// Asks the host for every import.
pub(crate) fn imports(info: &ModuleInfo, host: &dyn Host) -> Result<Imports, Error> {
    let mut found = Vec::with_capacity(info.imports.len());
    let mut unknown = Vec::new();
    for import in &info.imports {
        let name = format!("{}.{}", import.module, import.name);
        match &import.kind {
            ImportKind::Other(what) => unknown.push(format!("{name} (a {what}, which no host provides)")),
            ImportKind::Function(signature) => match signature.for_host() {
                None => unknown.push(format!("{name} {} (only numbers and externref can be passed)", signature.text())),
                Some((params, results)) => match host.resolve(&import.module, &import.name, &params, &results) {
                    Some(number) => found.push(ImportedFunction { number, params, results }),
                    None => unknown.push(format!("{name} {}", signature.text())),
                },
            },
        }
    }
    if unknown.is_empty() { Ok(found) } else { Err(Error::Imports(unknown)) }
}

/// Checks the initial sizes of the program's own memories and tables.
pub(crate) fn check_limits(info: &ModuleInfo, map: Option<&Map>, limits: &Limits) -> Result<(), Error> {
    let own = |all: usize, mapped: fn(&Map) -> usize| map.map_or(all, |map| mapped(map).min(all));
    let memories = &info.memories[..own(info.memories.len(), |map| map.memories.len())];
    let tables = &info.tables[..own(info.tables.len(), |map| map.tables.len())];
    for (what, sizes, limit) in [("memory", memories, limits.memory_bytes), ("table", tables, limits.table_elements)] {
        if let Some((index, wanted)) = sizes.iter().enumerate().find(|(_, size)| **size > limit) {
            return Err(Error::Limit { what: format!("{what} {index}"), wanted: *wanted, limit });
        }
    }
    Ok(())
}

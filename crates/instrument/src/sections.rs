//! Puts the instrumented module together: the original sections, byte for byte, with entries appended to them.

use std::collections::HashMap;

use wasm_encoder::{Encode, Instruction, MemArg};

use crate::bulk::Step;
use crate::emit::{self, Code, control};
use crate::map::{ControlLayout, ControlState, SafepointKind, exports};
use crate::module::Module;
use crate::plan::Plan;
use crate::save;
use crate::ty::{Heap, Ty};
use crate::{Options, Poll, Variant};

/// What the pass adds to a module's index spaces. Everything is appended, so no index of the original changes.
#[derive(Debug)]
pub(crate) struct Additions {
    pub(crate) control: ControlLayout,
    pub(crate) control_memory: u32,
    /// The memory with the flag that polls beside calls read, where there are any.
    pub(crate) calls_memory: Option<u32>,
    pub(crate) count_global: Option<u32>,
    pub(crate) count_function: Option<u32>,
    /// Result types of the functions that save and call, and the first of the functions that end their save path.
    commits: Vec<Vec<Ty>>,
    first_commit: u32,
    /// The steps of bulk instructions, and the first of their functions.
    steps: Vec<Step>,
    first_step: u32,
    /// The table from safepoint to resuming function.
    pub(crate) resume_at_table: Option<u32>,
    /// The types of references that can be live at a safepoint, in the order of their private tables.
    pub(crate) ref_tables: Vec<Ty>,
    functions_table: u32,
    resume_table: Option<u32>,
    first_ref_table: u32,
    /// Bodies whose frames can be resumed, with the function that does it.
    resume_functions: Vec<(u32, u32)>,
    drop_function: Option<u32>,
    first_dummy: u32,
    dummies: Vec<Heap>,
    first_type: u32,
    types: Vec<(Vec<Ty>, Vec<Ty>)>,
    type_index: HashMap<(Vec<Ty>, Vec<Ty>), u32>,
}

impl Additions {
    /// Assigns indices. They depend only on the module, its plan and the options.
    pub(crate) fn new(module: &Module<'_>, plan: &Plan, options: Options, resumes: &dyn Fn(u32) -> bool) -> Self {
        let mut next_function = module.functions.len() as u32;
        let mut functions = |count: u32| {
            next_function += count;
            next_function - count
        };
        let resumable = options.variant == Variant::Resume;
        let counting = options.poll == Poll::Count;
        let mut commits: Vec<Vec<Ty>> = Vec::new();
        for (body, plan) in module.bodies.iter().zip(&plan.functions) {
            if !plan.points.is_empty() && body.calls() && !commits.contains(&body.blocks[0].results) {
                commits.push(body.blocks[0].results.clone());
            }
        }
        let first_commit = functions(commits.len() as u32);
        let count_function = counting.then(|| functions(1));
        let mut steps: Vec<Step> = Vec::new();
        for (body, plan) in module.bodies.iter().zip(&plan.functions) {
            for point in plan.points.iter().filter(|point| point.kind == SafepointKind::Bulk) {
                let step = Step::of(module.bytes, body, &body.ops[point.op], options.poll);
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
        }
        let first_step = functions(steps.len() as u32);
        let mut resume_functions = Vec::new();
        if resumable {
            for (body, plan) in module.bodies.iter().zip(&plan.functions) {
                if !plan.points.is_empty() && resumes(body.function) {
                    resume_functions.push((body.function, functions(1)));
                }
            }
        }
        let drop_function = (resumable && module.data_segments + module.elem_segments > 0).then(|| functions(1));
        let mut ref_tables: Vec<Ty> = Vec::new();
        for point in plan.functions.iter().flat_map(|function| &function.points) {
            for (_, ty) in &point.live {
                if matches!(ty, Ty::Ref { .. }) && !ref_tables.contains(&ty.nullable()) {
                    ref_tables.push(ty.nullable());
                }
            }
        }
        let tables = module.tables.len() as u32;
        let control_memory = module.memories.len() as u32;
        let mut points = plan.functions.iter().flat_map(|function| &function.points);
        let calls = !counting && points.any(|point| point.kind != SafepointKind::Loop);
        Self {
            control: layout(module, plan),
            control_memory,
            calls_memory: calls.then_some(control_memory + 1),
            count_global: counting.then_some(module.globals.len() as u32),
            count_function,
            commits,
            first_commit,
            steps,
            first_step,
            functions_table: tables,
            resume_table: resumable.then_some(tables + 1),
            resume_at_table: resumable.then_some(tables + 2),
            first_ref_table: tables + if resumable { 3 } else { 1 },
            ref_tables,
            resume_functions,
            drop_function,
            first_dummy: next_function,
            dummies: Vec::new(),
            first_type: module.type_count,
            types: Vec::new(),
            type_index: HashMap::new(),
        }
    }

    /// The index of a function type.
    pub(crate) fn ty(&mut self, params: &[Ty], results: &[Ty]) -> u32 {
        let key = (params.to_vec(), results.to_vec());
        *self.type_index.entry(key).or_insert_with_key(|key| {
            self.types.push(key.clone());
            self.first_type + self.types.len() as u32 - 1
        })
    }

    /// The private table for references of a type.
    pub(crate) fn ref_table(&self, ty: Ty) -> u32 {
        let position = self.ref_tables.iter().position(|table| *table == ty.nullable());
        self.first_ref_table + position.expect("every live type has a table") as u32
    }

    /// The function that ends the save path of functions with these results.
    pub(crate) fn commit_function(&self, results: &[Ty]) -> u32 {
        let position = self.commits.iter().position(|commit| commit == results);
        self.first_commit + position.expect("one for each list of results") as u32
    }

    /// The function that does a step of a bulk instruction.
    pub(crate) fn step_function(&self, step: &Step) -> u32 {
        let position = self.steps.iter().position(|other| other == step);
        self.first_step + position.expect("one for each kind of bulk instruction") as u32
    }

    /// A function to fill a result that may not be null while a frame unwinds. Nobody calls it.
    pub(crate) fn dummy_function(&mut self, heap: Heap) -> u32 {
        let position = self.dummies.iter().position(|dummy| *dummy == heap).unwrap_or_else(|| {
            self.dummies.push(heap);
            self.dummies.len() - 1
        });
        self.first_dummy + position as u32
    }
}

fn layout(module: &Module<'_>, plan: &Plan) -> ControlLayout {
    let largest_record = plan
        .functions
        .iter()
        .flat_map(|function| &function.points)
        .map(|point| point.live.iter().map(|(_, ty)| ty.value_type().size()).sum::<u32>() + ControlLayout::TRAILER)
        .max()
        .unwrap_or(0);
    let dropped_data = 16;
    let dropped_elems = dropped_data + module.data_segments;
    let frames = (dropped_elems + module.elem_segments).next_multiple_of(16);
    let pages = (frames + 2 * largest_record).div_ceil(65536).max(1);
    ControlLayout { dropped_data, dropped_elems, frames, largest_record, pages }
}

const TYPE: u8 = 1;
const IMPORT: u8 = 2;
const FUNCTION: u8 = 3;
const TABLE: u8 = 4;
const MEMORY: u8 = 5;
const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;
const ELEMENT: u8 = 9;
const CODE: u8 = 10;
const DATA: u8 = 11;
const DATA_COUNT: u8 = 12;
const TAG: u8 = 13;

/// Writes the module. `bodies` are those of the original functions, `resumes` those that resume them.
pub(crate) fn assemble(
    module: &Module<'_>,
    plan: &Plan,
    mut additions: Additions,
    bodies: Vec<Option<Code>>,
    resumes: Vec<Code>,
) -> Vec<u8> {
    let mut functions: Vec<(u32, Code)> = Vec::new();
    for results in additions.commits.clone() {
        let ty = additions.ty(&[Ty::I32, Ty::I32], &results);
        functions.push((ty, commit_function(&mut additions, &results)));
    }
    if additions.count_function.is_some() {
        let ty = additions.ty(&[], &[Ty::I32]);
        functions.push((ty, count_function(&additions)));
    }
    for step in additions.steps.clone() {
        let ty = additions.ty(&step.params(), &step.results());
        functions.push((ty, step.function()));
    }
    for ((function, _), code) in additions.resume_functions.clone().into_iter().zip(resumes) {
        let ty = additions.ty(&[], &module.signature_of(function).results);
        functions.push((ty, code));
    }
    if additions.drop_function.is_some() {
        let ty = additions.ty(&[], &[]);
        functions.push((ty, drop_function(module, &additions)));
    }
    for heap in additions.dummies.clone() {
        let ty = match heap {
            Heap::Concrete(index) => index,
            _ => additions.ty(&[], &[]),
        };
        functions.push((ty, dummy_function()));
    }

    let mut out = Output { module, bytes: module.bytes[..8].to_vec() };
    out.section(
        TYPE,
        additions.types.iter().map(|(params, results)| {
            let mut entry = vec![0x60];
            for list in [params, results] {
                (list.len() as u32).encode(&mut entry);
                list.iter().for_each(|ty| ty.encoded().encode(&mut entry));
            }
            entry
        }),
    );
    out.section(IMPORT, []);
    out.section(FUNCTION, functions.iter().map(|(ty, _)| encoded(*ty)));
    out.section(TABLE, tables(module, plan, &additions));
    out.section(MEMORY, memories(&additions));
    out.section(TAG, []);
    out.section(GLOBAL, additions.count_global.map(|_| vec![0x7e, 0x01, 0x42, 0x00, 0x0b]));
    out.section(EXPORT, export_entries(module, &additions));
    out.section(ELEMENT, element_entries(module, plan, &additions));
    let data = [vec![0x02], encoded(additions.control_memory), vec![0x41, 0x08, 0x0b, 0x04]].concat();
    let data = [data, additions.control.frames.to_le_bytes().to_vec()].concat();
    if out.raw(DATA_COUNT).is_some() {
        out.whole(DATA_COUNT, &encoded(module.data_segments + 1));
    }
    out.branch_hints(&bodies, &functions);
    out.code(&bodies, &functions);
    out.section(DATA, [data]);
    if let Some(names) = &module.names {
        out.whole(0, &kept_names(&module.bytes[names.clone()]));
    }
    out.bytes
}

/// The name section without what no longer fits: only names of the module, its functions and their locals.
fn kept_names(section: &[u8]) -> Vec<u8> {
    let mut reader = wasmparser::BinaryReader::new(section, 0);
    let mut kept = Vec::new();
    // The section is not validated by anybody; where it cannot be read, the rest is left out.
    if reader.read_string().is_err() {
        return kept;
    }
    kept.extend_from_slice(&section[..reader.original_position()]);
    while !reader.eof() {
        let start = reader.original_position();
        let Ok(id) = reader.read_u8() else { break };
        let Ok(size) = reader.read_var_u32() else { break };
        if reader.read_bytes(size as usize).is_err() {
            break;
        }
        if id <= 2 {
            kept.extend_from_slice(&section[start..reader.original_position()]);
        }
    }
    kept
}

struct Output<'m> {
    module: &'m Module<'m>,
    bytes: Vec<u8>,
}

impl Output<'_> {
    fn raw(&self, id: u8) -> Option<&[u8]> {
        let (_, range) = self.module.sections.iter().find(|(own, _)| *own == id)?;
        Some(&self.module.bytes[range.clone()])
    }

    fn whole(&mut self, id: u8, contents: &[u8]) {
        self.bytes.push(id);
        contents.encode(&mut self.bytes);
    }

    /// A section with entries appended to the original ones.
    fn section(&mut self, id: u8, entries: impl IntoIterator<Item = Vec<u8>>) {
        let mut count = 0;
        let mut added = Vec::new();
        for entry in entries {
            count += 1;
            added.extend_from_slice(&entry);
        }
        let (own_count, own) = self.raw(id).map_or((0, &[][..]), |raw| {
            let mut reader = wasmparser::BinaryReader::new(raw, 0);
            let count = reader.read_var_u32().expect("validated");
            (count, &raw[reader.original_position()..])
        });
        if own_count + count == 0 {
            return;
        }
        let contents = [&encoded(own_count + count), own, &added].concat();
        self.whole(id, &contents);
    }

    fn branch_hints(&mut self, bodies: &[Option<Code>], functions: &[(u32, Code)]) {
        let mut hints = wasm_encoder::BranchHints::new();
        let originals = bodies.iter().map(Option::as_ref);
        let all = originals.chain(functions.iter().map(|(_, code)| Some(code)));
        let mut any = false;
        for (index, code) in all.enumerate() {
            let Some(code) = code.filter(|code| !code.hints.is_empty()) else { continue };
            any = true;
            let function = self.module.imported_functions + index as u32;
            hints.function_hints(
                function,
                code.hints.iter().map(|(offset, taken)| wasm_encoder::BranchHint {
                    branch_func_offset: *offset,
                    branch_hint_value: (*taken).into(),
                }),
            );
        }
        if any {
            use wasm_encoder::Section as _;
            hints.append_to(&mut self.bytes);
        }
    }

    fn code(&mut self, bodies: &[Option<Code>], functions: &[(u32, Code)]) {
        let mut contents = encoded((bodies.len() + functions.len()) as u32);
        for (index, body) in bodies.iter().enumerate() {
            match body {
                Some(code) => code.bytes.encode(&mut contents),
                None => self.module.bytes[self.module.bodies[index].range.clone()].encode(&mut contents),
            }
        }
        for (_, code) in functions {
            code.bytes.encode(&mut contents);
        }
        if bodies.len() + functions.len() > 0 {
            self.whole(CODE, &contents);
        }
    }
}

fn memories(additions: &Additions) -> Vec<Vec<u8>> {
    let control = [vec![0x00], encoded(additions.control.pages)].concat();
    // 64-bit, and a page more than 4 GiB at most: further than engines reserve room for, so that for all they know it may move.
    let calls = additions.calls_memory.map(|_| [vec![0x05, 0x01], encoded(65537)].concat());
    [Some(control), calls].into_iter().flatten().collect()
}

fn tables(module: &Module<'_>, plan: &Plan, additions: &Additions) -> Vec<Vec<u8>> {
    let funcref = |size: u32| [vec![0x70, 0x01], encoded(size), encoded(size)].concat();
    let mut entries = vec![funcref(module.functions.len() as u32)];
    if additions.resume_table.is_some() {
        entries.push(funcref(module.functions.len() as u32));
        entries.push(funcref(plan.safepoints));
    }
    for ty in &additions.ref_tables {
        let mut entry = Vec::new();
        ty.encoded().encode(&mut entry);
        entry.extend_from_slice(&[0x00, 0x00]);
        entries.push(entry);
    }
    entries
}

fn export_entries(module: &Module<'_>, additions: &Additions) -> Vec<Vec<u8>> {
    const FUNC: u8 = 0;
    const TABLE: u8 = 1;
    const MEMORY: u8 = 2;
    const GLOBAL: u8 = 3;
    const TAG: u8 = 4;
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let mut export = |name: &str, kind: u8, index: u32| {
        let mut entry = Vec::new();
        name.encode(&mut entry);
        entry.push(kind);
        index.encode(&mut entry);
        entries.push(entry);
    };
    export(exports::CONTROL, MEMORY, additions.control_memory);
    if let Some(memory) = additions.calls_memory {
        export(exports::CALLS, MEMORY, memory);
    }
    export(exports::FUNCTIONS, TABLE, additions.functions_table);
    if let Some(global) = additions.count_global {
        export(exports::COUNT, GLOBAL, global);
    }
    if let Some(table) = additions.resume_table {
        export(exports::RESUME, TABLE, table);
    }
    if let Some(function) = additions.drop_function {
        export(exports::DROP, FUNC, function);
    }
    if let Some(function) = module.start {
        export(exports::START, FUNC, function);
    }
    for index in 0..module.memories.len() as u32 {
        export(&exports::memory(index), MEMORY, index);
    }
    for index in 0..module.tables.len() as u32 {
        export(&exports::table(index), TABLE, index);
    }
    for (index, global) in module.globals.iter().enumerate() {
        if global.mutable {
            export(&exports::global(index as u32), GLOBAL, index as u32);
        }
    }
    for index in 0..module.tags.len() as u32 {
        export(&exports::tag(index), TAG, index);
    }
    for index in 0..additions.ref_tables.len() as u32 {
        export(&exports::ref_table(index), TABLE, additions.first_ref_table + index);
    }
    entries
}

/// Active segments that fill the private tables, and one that declares the dummies.
fn element_entries(module: &Module<'_>, plan: &Plan, additions: &Additions) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    let mut fill = |table: u32, elements: &mut dyn Iterator<Item = (u32, u32)>| {
        // Runs of neighbouring slots become one segment of function indices: engines fill those lazily.
        let mut runs: Vec<(u32, Vec<u32>)> = Vec::new();
        for (slot, function) in elements {
            match runs.last_mut() {
                Some((first, run)) if *first + run.len() as u32 == slot => run.push(function),
                _ => runs.push((slot, vec![function])),
            }
        }
        for (first, run) in runs {
            let mut entry = vec![0x02];
            table.encode(&mut entry);
            Instruction::I32Const(first as i32).encode(&mut entry);
            entry.extend_from_slice(&[0x0b, 0x00]);
            (run.len() as u32).encode(&mut entry);
            run.iter().for_each(|function| function.encode(&mut entry));
            entries.push(entry);
        }
    };
    fill(additions.functions_table, &mut module.escaping.iter().map(|function| (*function, *function)));
    if let (Some(resume), Some(resume_at)) = (additions.resume_table, additions.resume_at_table) {
        fill(resume, &mut additions.resume_functions.iter().copied());
        let points = |function: u32| {
            let plan = &plan.functions[(function - module.imported_functions) as usize];
            (0..plan.points.len() as u32).map(|point| plan.first + point)
        };
        let functions = additions.resume_functions.iter();
        let mut slots = functions.flat_map(|(function, resume)| points(*function).map(|point| (point, *resume)));
        fill(resume_at, &mut slots);
    }
    if !additions.dummies.is_empty() {
        let mut entry = vec![0x03, 0x00];
        (additions.dummies.len() as u32).encode(&mut entry);
        (0..additions.dummies.len() as u32).for_each(|index| (additions.first_dummy + index).encode(&mut entry));
        entries.push(entry);
    }
    entries
}

/// Ends a record, and grows the control memory so that there is room for the largest one behind it: at least doubled, since
/// deep stacks come here often. Where it cannot grow any more, the next record traps, and the engine says so.
fn commit_function(additions: &mut Additions, results: &[Ty]) -> Code {
    let largest = additions.control.largest_record;
    let memory = additions.control_memory;
    let mut code = Code { bytes: vec![0], hints: Vec::new() };
    save::end_record(&mut code, additions, (0, 1));
    for instruction in [
        Instruction::MemorySize(memory),
        Instruction::I32Const(16),
        Instruction::I32Shl,
        Instruction::I32Const(0),
        Instruction::I32Load(control(additions, ControlLayout::TOP)),
        Instruction::I32Sub,
        Instruction::I32Const(largest as i32),
        Instruction::I32LtU,
        Instruction::If(wasm_encoder::BlockType::Empty),
        Instruction::MemorySize(memory),
        Instruction::I32Const(largest.div_ceil(65536) as i32),
        Instruction::I32Add,
        Instruction::MemoryGrow(memory),
        Instruction::Drop,
        Instruction::End,
    ] {
        code.push(instruction);
    }
    results.iter().for_each(|ty| emit::dummy(&mut code, additions, *ty));
    code.push(Instruction::End);
    code
}

/// Counts a safepoint down and pushes whether to stop there. Once frames unwind, nothing is counted.
fn count_function(additions: &Additions) -> Code {
    let global = additions.count_global.expect("counting modules have it");
    let flag = MemArg { align: 2, ..control(additions, ControlLayout::FLAG) };
    body(&[
        Instruction::I32Const(0),
        Instruction::I32Load(control(additions, ControlLayout::STATE)),
        Instruction::I32Const(ControlState::Running as i32),
        Instruction::I32Eq,
        Instruction::If(wasm_encoder::BlockType::Empty),
        Instruction::GlobalGet(global),
        Instruction::I64Const(1),
        Instruction::I64Sub,
        Instruction::GlobalSet(global),
        Instruction::GlobalGet(global),
        Instruction::I64Eqz,
        Instruction::If(wasm_encoder::BlockType::Empty),
        Instruction::I32Const(0),
        Instruction::I32Const(1),
        Instruction::I32Store(flag),
        Instruction::End,
        Instruction::End,
        Instruction::I32Const(0),
        Instruction::I32Load(flag),
    ])
}

fn drop_function(module: &Module<'_>, additions: &Additions) -> Code {
    let mut code = Vec::new();
    let mut segment = |at: u32, drop: Instruction<'static>| {
        code.extend([
            Instruction::I32Const(0),
            Instruction::I32Load8U(control(additions, at)),
            Instruction::If(wasm_encoder::BlockType::Empty),
            drop,
            Instruction::End,
        ]);
    };
    for index in 0..module.elem_segments {
        segment(additions.control.dropped_elems + index, Instruction::ElemDrop(index));
    }
    if module.has_data_count() {
        for index in 0..module.data_segments {
            segment(additions.control.dropped_data + index, Instruction::DataDrop(index));
        }
    }
    body(&code)
}

fn dummy_function() -> Code {
    body(&[Instruction::Unreachable])
}

fn body(code: &[Instruction<'_>]) -> Code {
    let mut body = Code { bytes: vec![0], hints: Vec::new() };
    code.iter().for_each(|instruction| instruction.encode(&mut body.bytes));
    body.push(Instruction::End);
    body
}

fn encoded(value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

//! Indirect calls made direct, and what nobody calls left out.
//!
//! Function pointers and trait objects are numbers in a module's table. Where nobody else sees that table and nothing changes it, each number's function is
//! known when the module is built. So each `call_indirect` becomes a call of a *switch*, one per type of function, which leads by number to one
//! direct call each; and the table goes away.
//!
//! A host gains three times. Its compiler makes an entry from outside for each function in a table, since any of them might be called from
//! there: with a quick compiler that is a third of its time. A fresh instance has no table, whose places wasmtime fills one by one as they are used.
//! And a function that stands in the table, but is of a type that no indirect call has, is dead, with all that only it calls.
//!
//! - D1. The module does what it did. A number that leads to no function of the call's type traps as it did, only by `unreachable`. An indirect call takes
//!   one more frame, so that a recursion through function pointers comes to the end of the stack a little earlier.
//! - D2. What is not understood stays as it is, whole: see [`Shape::of`]. So does a module with DWARF, whose addresses would be others.
//! - D3. Functions keep their order and their names.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
};

use wasm_encoder::{
    BlockType, CodeSection, ElementSection, Function, FunctionSection, Instruction, Module, NameMap,
    NameSection, TableSection, TypeSection, ValType,
    reencode::{Error, Reencode, utils},
};
use wasmparser::{
    CodeSectionReader, ElementItems, ElementKind, ElementSectionReader, ExternalKind, FuncType, FunctionBody,
    FunctionSectionReader, Name, Operator, Parser, Payload, TableInit, TableSectionReader, TypeRef,
    TypeSectionReader,
};

/// Longest table that is looked at: a switch may have a branch for each place between the first and the last function of its type.
const TABLE_MAX: u32 = 1 << 14;
/// As many functions are told apart one after another; more, by a jump.
const COMPARED: usize = 4;

/// The module with its indirect calls made direct; `None` if it has none, or is not understood.
///
/// One that is not valid is not understood, nor is one whose custom sections cannot be written again: those are not validated.
pub(crate) fn direct(module: &[u8]) -> Option<Vec<u8>> {
    wasmparser::validate(module).ok()?;
    let shape = Shape::of(module).ok()??;
    let mut rewriter = Rewriter::new(&shape);
    let mut direct = Module::new();
    rewriter
        .parse_core_module(&mut direct, Parser::new(0), module)
        .ok()?;
    Some(direct.finish())
}

/// What a module is made of, as far as it matters here. Types are numbered by the first that is equal to them.
#[derive(Default)]
struct Shape {
    types: Vec<FuncType>,
    same_type: Vec<u32>,
    imported: u32,
    /// Type of each function, imported ones first.
    functions: Vec<u32>,
    bodies: Vec<Calls>,
    /// How many places the table has.
    places: u64,
    /// Function of each place that has one.
    table: BTreeMap<u32, u32>,
    roots: Vec<u32>,
}

/// What one function calls.
#[derive(Default)]
struct Calls {
    functions: BTreeSet<u32>,
    types: BTreeSet<u32>,
}

/// Writes the module anew.
struct Rewriter<'a> {
    shape: &'a Shape,
    /// New number of each function that is left.
    numbers: Vec<Option<u32>>,
    /// How many are left.
    left: u32,
    switches: Vec<Switch>,
    next_body: u32,
}

/// Where indirect calls of one type go.
struct Switch {
    function_type: u32,
    /// Place and function.
    leads: Vec<(u32, u32)>,
}

// === impl Shape ===

impl Shape {
    /// Reads a module; `None` if it has to stay as it is. That is one
    ///
    /// - without indirect calls;
    /// - with more than one table, or one that comes or goes across its border, or that could be changed or read by an instruction;
    /// - in which a function's reference is anything but an entry of the table;
    /// - whose table is made with a function in every place, has 64-bit numbers, or is too short for what is put there: that is not instantiated;
    /// - with types that are no functions or have subtypes;
    /// - with custom sections that know offsets or numbers of functions: DWARF, hints, what linkers leave.
    fn of(module: &[u8]) -> Result<Option<Self>, Error> {
        let mut shape = Self::default();
        let mut tables = 0;
        for payload in Parser::new(0).parse_all(module) {
            let understood = match payload? {
                Payload::TypeSection(section) => shape.read_types(section)?,
                Payload::ImportSection(section) => {
                    let mut understood = true;
                    for import in section.into_imports() {
                        match import?.ty {
                            TypeRef::Func(of) => shape.functions.push(of),
                            TypeRef::Memory(_) | TypeRef::Global(_) => {}
                            _ => understood = false,
                        }
                    }
                    shape.imported = length(&shape.functions);
                    understood
                }
                Payload::FunctionSection(section) => {
                    for of in section {
                        shape.functions.push(of?);
                    }
                    true
                }
                Payload::TableSection(section) => {
                    tables += section.count();
                    let mut understood = true;
                    for table in section {
                        let table = table?;
                        shape.places = table.ty.initial;
                        understood &= matches!(table.init, TableInit::RefNull) && !table.ty.table64;
                    }
                    understood
                }
                Payload::GlobalSection(section) => {
                    let mut understood = true;
                    for global in section {
                        understood &= !global?
                            .init_expr
                            .get_operators_reader()
                            .into_iter()
                            .any(|it| matches!(it, Ok(Operator::RefFunc { .. })));
                    }
                    understood
                }
                Payload::ExportSection(section) => {
                    let mut understood = true;
                    for export in section {
                        let export = export?;
                        match export.kind {
                            ExternalKind::Func => shape.roots.push(export.index),
                            ExternalKind::Table => understood = false,
                            _ => {}
                        }
                    }
                    understood
                }
                Payload::StartSection { func, .. } => {
                    shape.roots.push(func);
                    true
                }
                Payload::ElementSection(section) => shape.read_elements(section)?,
                Payload::CodeSectionEntry(body) => shape.read_body(&body)?,
                Payload::CustomSection(section) => {
                    let knows = [".debug_", "metadata.code.", "reloc.", "linking"];
                    !knows.iter().any(|it| section.name().starts_with(it))
                }
                Payload::TagSection(_) | Payload::UnknownSection { .. } => false,
                _ => true,
            };
            if !understood {
                return Ok(None);
            }
        }
        let calls = shape.bodies.iter().any(|it| !it.types.is_empty());
        Ok((calls && tables == 1).then_some(shape))
    }

    fn read_types(&mut self, section: TypeSectionReader<'_>) -> Result<bool, Error> {
        for group in section {
            let group = group?;
            let alone = !group.is_explicit_rec_group();
            for of in group.into_types() {
                // Equal parameters and results make two types one only where neither has subtypes.
                let plain = alone && of.is_final && of.supertype_idx.is_none();
                let wasmparser::CompositeInnerType::Func(function) = of.composite_type.inner else {
                    return Ok(false);
                };
                if !plain {
                    return Ok(false);
                }
                let number = length(&self.types);
                let same = self.types.iter().position(|it| *it == function);
                self.same_type
                    .push(same.and_then(|it| it.try_into().ok()).unwrap_or(number));
                self.types.push(function);
            }
        }
        Ok(true)
    }

    fn read_elements(&mut self, section: ElementSectionReader<'_>) -> Result<bool, Error> {
        for element in section {
            let element = element?;
            let ElementKind::Active {
                table_index: None | Some(0),
                offset_expr,
            } = element.kind
            else {
                return Ok(false);
            };
            let mut offset = offset_expr.get_operators_reader();
            let (Operator::I32Const { value }, Operator::End) = (offset.read()?, offset.read()?) else {
                return Ok(false);
            };
            let ElementItems::Functions(functions) = element.items else {
                return Ok(false);
            };
            for (place, function) in (value.cast_unsigned()..TABLE_MAX).zip(functions.clone()) {
                self.table.insert(place, function?);
            }
            let end = value.cast_unsigned().saturating_add(functions.count());
            if end > TABLE_MAX || u64::from(end) > self.places {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_body(&mut self, body: &FunctionBody<'_>) -> Result<bool, Error> {
        let mut calls = Calls::default();
        for operator in body.get_operators_reader()? {
            match operator? {
                Operator::Call { function_index } => {
                    calls.functions.insert(function_index);
                }
                Operator::CallIndirect {
                    type_index,
                    table_index: 0,
                } => {
                    calls.types.insert(self.same_type(type_index));
                }
                Operator::CallIndirect { .. }
                | Operator::ReturnCall { .. }
                | Operator::ReturnCallIndirect { .. }
                | Operator::CallRef { .. }
                | Operator::ReturnCallRef { .. }
                | Operator::RefFunc { .. }
                | Operator::TableGet { .. }
                | Operator::TableSet { .. }
                | Operator::TableGrow { .. }
                | Operator::TableSize { .. }
                | Operator::TableFill { .. }
                | Operator::TableCopy { .. }
                | Operator::TableInit { .. }
                | Operator::ElemDrop { .. } => return Ok(false),
                _ => {}
            }
        }
        self.bodies.push(calls);
        Ok(true)
    }

    /// The first type that is equal.
    fn same_type(&self, of: u32) -> u32 {
        self.same_type[of as usize]
    }

    /// Which functions can be reached from outside, and the types of the indirect calls in them.
    fn reached(&self) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let (mut functions, mut types) = (BTreeSet::new(), BTreeSet::new());
        let mut todo = self.roots.clone();
        while let Some(function) = todo.pop() {
            if !functions.insert(function) {
                continue;
            }
            let body = function
                .checked_sub(self.imported)
                .and_then(|it| self.bodies.get(it as usize));
            let Some(calls) = body else { continue };
            todo.extend(&calls.functions);
            for &of in &calls.types {
                if types.insert(of) {
                    todo.extend(self.leads(of).map(|(_, function)| function));
                }
            }
        }
        (functions, types)
    }

    /// Place and function of what an indirect call of a type can lead to.
    fn leads(&self, of: u32) -> impl Iterator<Item = (u32, u32)> {
        let all = self.table.iter().map(|(place, function)| (*place, *function));
        all.filter(move |(_, function)| self.same_type(self.functions[*function as usize]) == of)
    }
}

fn length<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("a module has no section of 4 GiB")
}

// === impl Rewriter ===

impl<'a> Rewriter<'a> {
    fn new(shape: &'a Shape) -> Self {
        let (functions, types) = shape.reached();
        let mut left = 0;
        // Imports stay: what a module asks of its host is part of its ABI.
        let number = |it: u32| {
            let number = (it < shape.imported || functions.contains(&it)).then_some(left);
            left += u32::from(number.is_some());
            number
        };
        let numbers = (0..length(&shape.functions)).map(number).collect();
        let switch = |of: u32| Switch {
            function_type: of,
            leads: shape.leads(of).collect(),
        };
        Self {
            shape,
            numbers,
            left,
            switches: types.into_iter().map(switch).collect(),
            next_body: shape.imported,
        }
    }

    fn number(&self, function: u32) -> Option<u32> {
        // Custom sections are not validated: there may be a name for what is no function.
        self.numbers.get(function as usize).copied().flatten()
    }

    /// Number of the switch for calls of a type: they come after all other functions.
    fn switch(&self, of: u32) -> Option<u32> {
        let of = self.shape.same_type(of);
        let nth = (0..)
            .zip(&self.switches)
            .find_map(|(nth, it)| (it.function_type == of).then_some(nth));
        nth.map(|nth: u32| self.left + nth)
    }

    /// Local 0 and following: the arguments; the last one: the number.
    fn switch_body(&mut self, switch: usize) -> Result<Function, Error> {
        let leads = std::mem::take(&mut self.switches[switch].leads);
        let of = &self.shape.types[self.switches[switch].function_type as usize];
        let arguments = length(of.params());
        let mut body = Function::new([]);
        match (leads.first(), leads.last()) {
            (Some((first, _)), Some((last, _))) if leads.len() > COMPARED => {
                // Innermost block 0 leads to the first function; the outermost, to none.
                let none = length(&leads);
                let mut places = vec![none; (last - first) as usize + 1];
                for (block, (place, _)) in (0..).zip(&leads) {
                    places[(place - first) as usize] = block;
                }
                for _ in 0..=leads.len() {
                    body.instruction(&Instruction::Block(BlockType::Empty));
                }
                body.instruction(&Instruction::LocalGet(arguments));
                body.instruction(&Instruction::I32Const(first.cast_signed()));
                body.instruction(&Instruction::I32Sub);
                body.instruction(&Instruction::BrTable(places.into(), none));
                for (_, function) in &leads {
                    body.instruction(&Instruction::End);
                    self.lead(&mut body, arguments, *function)?;
                }
                body.instruction(&Instruction::End);
            }
            _ => {
                for (place, function) in &leads {
                    body.instruction(&Instruction::LocalGet(arguments));
                    body.instruction(&Instruction::I32Const(place.cast_signed()));
                    body.instruction(&Instruction::I32Eq);
                    body.instruction(&Instruction::If(BlockType::Empty));
                    self.lead(&mut body, arguments, *function)?;
                    body.instruction(&Instruction::End);
                }
            }
        }
        body.instruction(&Instruction::Unreachable);
        body.instruction(&Instruction::End);
        Ok(body)
    }

    fn lead(&mut self, body: &mut Function, arguments: u32, function: u32) -> Result<(), Error> {
        for argument in 0..arguments {
            body.instruction(&Instruction::LocalGet(argument));
        }
        body.instruction(&Instruction::Call(self.function_index(function)?));
        body.instruction(&Instruction::Return);
        Ok(())
    }
}

impl Reencode for Rewriter<'_> {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error> {
        Ok(self
            .number(function)
            .expect("what is left refers only to what is left"))
    }

    fn instruction<'a>(&mut self, operator: Operator<'a>) -> Result<Instruction<'a>, Error> {
        if let Operator::CallIndirect { type_index, .. } = operator
            && let Some(switch) = self.switch(type_index)
        {
            return Ok(Instruction::Call(switch));
        }
        utils::instruction(self, operator)
    }

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: TypeSectionReader<'_>,
    ) -> Result<(), Error> {
        utils::parse_type_section(self, types, section)?;
        let shape = self.shape;
        for switch in 0..self.switches.len() {
            let of = &shape.types[self.switches[switch].function_type as usize];
            let mut all = |given: &[wasmparser::ValType]| -> Result<Vec<ValType>, Error> {
                given.iter().map(|it| self.val_type(*it)).collect()
            };
            let (mut params, results) = (all(of.params())?, all(of.results())?);
            params.push(ValType::I32);
            types.ty().function(params, results);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), Error> {
        for (function, of) in (self.shape.imported..).zip(section) {
            if self.number(function).is_some() {
                functions.function(of?);
            }
        }
        for switch in 0..length(&self.switches) {
            functions.function(length(&self.shape.types) + switch);
        }
        Ok(())
    }

    fn parse_table_section(&mut self, _: &mut TableSection, _: TableSectionReader<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn parse_element_section(
        &mut self,
        _: &mut ElementSection,
        _: ElementSectionReader<'_>,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), Error> {
        utils::parse_code_section(self, code, section)?;
        for switch in 0..self.switches.len() {
            code.function(&self.switch_body(switch)?);
        }
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error> {
        let function = self.next_body;
        self.next_body += 1;
        if self.number(function).is_some() {
            utils::parse_function_body(self, code, body)?;
        }
        Ok(())
    }

    fn parse_custom_name_subsection(
        &mut self,
        names: &mut NameSection,
        section: Name<'_>,
    ) -> Result<(), Error> {
        match section {
            Name::Function(map) => {
                let mut left = NameMap::new();
                for naming in map {
                    let naming = naming?;
                    if let Some(number) = self.number(naming.index) {
                        left.append(number, naming.name);
                    }
                }
                names.functions(&left);
            }
            // What is inside of functions has names only for debuggers, and the table has gone.
            Name::Local(_) | Name::Label(_) | Name::Element(_) | Name::Table(_) => {}
            other => utils::parse_custom_name_subsection(self, names, other)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

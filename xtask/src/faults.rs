//! Rules that report every place they do not hold at, each with what to do.

use std::fmt::Write as _;

use anyhow::{Result, bail};

/// A place where a rule does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// The rule's name.
    pub(crate) rule: &'static str,
    /// `path`, `path:line` or a crate.
    pub(crate) place: String,
    /// What is wrong there.
    pub(crate) message: String,
    /// What to do.
    pub(crate) fix: String,
}

/// Prints what was checked, or fails with every fault.
pub(crate) fn report(task: &str, checked: &str, mut faults: Vec<Fault>) -> Result<()> {
    if faults.is_empty() {
        println!("{task}: {checked}, no fault");
        return Ok(());
    }
    faults.sort();
    faults.dedup();
    let mut text = String::new();
    for Fault {
        rule,
        place,
        message,
        fix,
    } in &faults
    {
        write!(
            text,
            "\nerror: {message}\n  --> {place}\n  rule: {rule}\nhint: {fix}\n"
        )?;
    }
    let plural = if faults.len() == 1 { "fault" } else { "faults" };
    bail!("{task}: {} {plural}\n{text}", faults.len())
}

//! `dunlin wasi`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::failure::Result;
use crate::report::run::json;
use crate::text::{self, Table};

/// What programs can import
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Wasi {
    #[command(subcommand)]
    command: WasiCommand,
}

#[derive(Debug, Subcommand)]
enum WasiCommand {
    /// Every function of WASI preview 1, and what of its state moves with a program
    #[command(before_help = "Examples:\n  dunlin wasi matrix\n  dunlin wasi matrix --json")]
    Matrix {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Function {
    module: &'static str,
    name: &'static str,
    params: Vec<String>,
    returns_errno: bool,
    state: &'static str,
    blocks: bool,
    source: &'static str,
    /// Tests of the host crate, as `file::function`.
    shown_by: &'static str,
    moved_by: &'static str,
}

pub(crate) fn run(wasi: &Wasi) -> Result<ExitCode> {
    let WasiCommand::Matrix { json: as_json } = wasi.command;
    let functions: Vec<Function> = dunlin_host::matrix()
        .map(|entry| Function {
            module: dunlin_host::MODULE,
            name: entry.name,
            params: entry.params.iter().map(ToString::to_string).collect(),
            returns_errno: entry.returns,
            state: entry.state,
            blocks: entry.blocks,
            source: entry.file,
            shown_by: entry.shown_by,
            moved_by: entry.moved_by,
        })
        .collect();
    if as_json {
        text::print(&json(&functions)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        Table::new(&["function", "parameters", "state that moves", "blocks", "shown by", "moved in the middle by"]);
    for function in &functions {
        let blocks = if function.blocks { "issued again" } else { "" };
        let state = if function.state.is_empty() { "none" } else { function.state };
        table.row([
            function.name.to_owned(),
            function.params.join(" "),
            state.to_owned(),
            blocks.to_owned(),
            function.shown_by.to_owned(),
            function.moved_by.to_owned(),
        ]);
    }
    text::print(&format!("{} functions of {}\n{}", functions.len(), dunlin_host::MODULE, table.render("")));
    Ok(ExitCode::SUCCESS)
}

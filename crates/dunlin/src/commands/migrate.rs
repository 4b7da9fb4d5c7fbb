//! `dunlin migrate` and `dunlin job`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use dunlin_node::{ApiClient, JobInfo, JobState, MigrateRequest, ModeName, TimeoutActionName};

use crate::commands::service::named;
use crate::failure::Result;
use crate::parse;
use crate::remote::{Format, NodeArgs, OutputArgs, refused, talk};
use crate::text;

/// Move a service to another node, while it serves
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Which service
    name: String,
    /// The node to which it goes
    #[arg(long, value_name = "NODE")]
    to: String,
    /// How its state travels
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// The longest pause that is acceptable [default: 300ms]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    max_downtime: Option<Duration>,
    /// The most bytes a second before the stop
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    bandwidth: Option<u64>,
    /// The most rounds of pre-copy [default: 30]
    #[arg(long, value_name = "N")]
    max_rounds: Option<u32>,
    /// The longest time from the first round to the stop
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    timeout: Option<Duration>,
    /// What to do when downtime, rounds or timeout cannot be kept
    #[arg(long, value_enum, default_value_t = Action::Abort)]
    timeout_action: Action,
    /// Slow the program down when it dirties memory faster than it can be sent
    #[arg(long)]
    auto_converge: bool,
    /// Only ask whether it would work, and what stands in the way
    #[arg(long)]
    dry_run: bool,
    /// Do not wait: print the job's id
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Stop, then copy everything
    Stop,
    /// Copy while it runs, then stop and copy the rest
    Precopy,
    /// Stop at once, fetch memory after the switch
    Postcopy,
    /// Pre-copy, then post-copy when it does not converge
    Hybrid,
    /// Whatever is best
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Give up: it goes on where it is
    Abort,
    /// Stop it and copy the rest, however long it takes
    Stop,
    /// Switch to post-copy
    Postcopy,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  dunlin migrate kv --to b
  dunlin migrate kv --to b --max-downtime 10ms --timeout 30s --timeout-action postcopy
  dunlin migrate kv --to b --dry-run          what would stand in the way, by name
  dunlin migrate kv --to b --detach           prints a job; `dunlin job watch` follows it";

pub(crate) const EXIT_CODES: &str = "\
Ctrl-C stops watching, not the move: `dunlin job abort` gives it up.

Exit codes:
  0   it runs there
  1   it goes on where it was, or the dry run found what stands in the way
  64  wrong usage
  66  no such service, node or job
  69  the node does not answer, or the service is not in a state for that
  70  it failed";

pub(crate) fn migrate(args: &Migrate) -> Result<ExitCode> {
    let request = MigrateRequest {
        to: args.to.clone(),
        mode: match args.mode {
            Mode::Stop => ModeName::Stop,
            Mode::Precopy => ModeName::Precopy,
            Mode::Postcopy => ModeName::Postcopy,
            Mode::Hybrid => ModeName::Hybrid,
            Mode::Auto => ModeName::Auto,
        },
        max_downtime_ms: args.max_downtime.map(text::milliseconds),
        bandwidth: args.bandwidth,
        max_rounds: args.max_rounds,
        timeout_ms: args.timeout.map(text::milliseconds),
        timeout_action: match args.timeout_action {
            Action::Abort => TimeoutActionName::Abort,
            Action::Stop => TimeoutActionName::Stop,
            Action::Postcopy => TimeoutActionName::Postcopy,
        },
        auto_converge: args.auto_converge,
        dry_run: args.dry_run,
    };
    let api = args.node.api()?;
    let path = format!("/v1/services/{}/migrate", named(&args.name)?);
    let job: JobInfo =
        talk(async { api.post(&path, &request).await.map_err(refused(format!("{} does not move", args.name))) })?;
    if args.detach {
        match args.output.format() {
            Format::Json => args.output.print(&job, |_| String::new())?,
            _ => text::print(&format!("{}\n", job.id)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    watch(&api, &job.id, args.output)
}

/// Moves: list them, watch one, give one up
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Job {
    #[command(subcommand)]
    verb: JobVerb,
}

#[derive(Debug, Subcommand)]
enum JobVerb {
    /// List moves that go on, and the last ones that ended
    #[command(before_help = LS, after_help = crate::remote::EXIT_CODES)]
    Ls {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Watch a move until it ends
    #[command(before_help = WATCH, after_help = EXIT_CODES)]
    Watch {
        /// The job's id, or the beginning of it
        id: String,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Give a move up, if it still can be
    #[command(before_help = ABORT, after_help = crate::remote::EXIT_CODES)]
    Abort {
        /// The job's id, or the beginning of it
        id: String,
        #[command(flatten)]
        node: NodeArgs,
    },
}

const LS: &str = "\
Examples:
  dunlin job ls
  dunlin job ls -o name                   ids only, one a line";

const WATCH: &str = "\
Examples:
  dunlin job watch 3fa9
  dunlin job watch 3fa9 -o json           only how it ended, with all that was measured";

const ABORT: &str = "\
Examples:
  dunlin job abort 3fa9";

pub(crate) fn job(args: &Job) -> Result<ExitCode> {
    match &args.verb {
        JobVerb::Ls { output, node } => list(*output, node),
        JobVerb::Watch { id, output, node } => watch(&node.api()?, named(id)?, *output),
        JobVerb::Abort { id, node } => {
            let api = node.api()?;
            let path = format!("/v1/jobs/{}/abort", named(id)?);
            talk(async { api.post::<JobInfo>(&path, &()).await.map_err(refused("the job is not given up")) })?;
            text::note("it will be given up, unless it has gone through already: `dunlin job ls` says which");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(output: OutputArgs, node: &NodeArgs) -> Result<ExitCode> {
    let api = node.api()?;
    let jobs: Vec<JobInfo> = talk(async { api.get("/v1/jobs").await.map_err(refused("the jobs cannot be listed")) })?;
    if output.format() == Format::Name {
        text::print(&jobs.iter().map(|job| format!("{}\n", job.id)).collect::<String>());
        return Ok(ExitCode::SUCCESS);
    }
    output.print(&jobs, |jobs| {
        let headings =
            ["JOB", "SERVICE", "FROM", "TO", "MODE", "STATE", "PHASE", ">PAUSE", ">TOTAL", ">SENT", "MESSAGE"];
        let mut table = text::Table::new(&headings);
        for job in jobs {
            table.row([
                job.id.chars().take(8).collect(),
                job.service.clone(),
                job.from.clone(),
                job.to.clone(),
                format!("{:?}", job.mode).to_lowercase(),
                format!("{:?}", job.state).to_lowercase(),
                text::printable(&job.phase),
                text::time_of(job.statistics.downtime),
                text::time_of(job.statistics.total_time),
                text::bytes(job.statistics.ram.transferred),
                text::printable(job.message.as_deref().unwrap_or_default()),
            ]);
        }
        table.render("")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Follows a job, and prints how it ended.
fn watch(api: &ApiClient, id: &str, output: OutputArgs) -> Result<ExitCode> {
    let terminal = std::io::stderr().is_terminal();
    let mut last = None;
    let mut phase = String::new();
    let mut told = std::time::Instant::now() - Duration::from_secs(1);
    talk(async {
        let each = |job: JobInfo| {
            let over = job.state.is_over();
            if terminal && !over && told.elapsed() >= Duration::from_millis(100) {
                told = std::time::Instant::now();
                text::say(&format!("\r\x1b[K{}", progress(&job)));
            } else if !terminal && !over && job.phase != phase {
                text::note(progress(&job));
            }
            phase.clone_from(&job.phase);
            last = Some(job);
            !over
        };
        api.lines(&format!("/v1/jobs/{id}/watch"), each).await.map_err(refused("the job cannot be watched"))
    })?;
    if terminal {
        text::say("\r\x1b[K");
    }
    let Some(job) = last else { return Ok(ExitCode::FAILURE) };
    output.print(&job, ended)?;
    Ok(if job.state == JobState::Done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Moves a service, with a pause of at most so many milliseconds if that can be had, and waits for the end.
pub(crate) async fn carried_out(
    api: &ApiClient,
    service: &str,
    to: &str,
    mode: ModeName,
    max_downtime_ms: f64,
) -> Result<JobInfo> {
    let request = MigrateRequest {
        to: to.to_owned(),
        mode,
        max_downtime_ms: (mode != ModeName::Stop).then_some(max_downtime_ms),
        timeout_action: TimeoutActionName::Stop,
        ..MigrateRequest::default()
    };
    let path = format!("/v1/services/{service}/migrate");
    let mut job: JobInfo = api.post(&path, &request).await.map_err(refused("the service does not move"))?;
    let watch = format!("/v1/jobs/{}/watch", job.id);
    let each = |now: JobInfo| {
        let over = now.state.is_over();
        job = now;
        !over
    };
    api.lines(&watch, each).await.map_err(refused("the move cannot be watched"))?;
    Ok(job)
}

/// One line about a move that goes on.
fn progress(job: &JobInfo) -> String {
    let statistics = &job.statistics;
    let ram = &statistics.ram;
    let throttle = match statistics.cpu_throttle_percentage {
        0 => String::new(),
        percent => format!("  slowed {percent} %"),
    };
    format!(
        "migrate {}  {} → {}  {}  round {}  sent {} of {}  dirty {}/s  net {}/s  est. pause {}{throttle}",
        job.service,
        job.from,
        job.to,
        text::printable(&job.phase),
        ram.dirty_sync_count,
        text::bytes(ram.transferred),
        text::bytes(ram.total),
        text::bytes(ram.dirty_pages_rate * ram.page_size),
        text::bytes(ram.mbps * 125_000),
        text::time_of(statistics.expected_downtime)
    )
}

/// How a move ended.
pub(crate) fn ended(job: &JobInfo) -> String {
    let statistics = &job.statistics;
    let message = text::printable(job.message.as_deref().unwrap_or_default());
    if !job.blocked.is_empty() {
        let lines: String = job.blocked.iter().map(|line| format!("  {}\n", text::printable(line))).collect();
        return format!("{message}; in its way:\n{lines}");
    }
    match job.state {
        JobState::Done if statistics.ram.transferred == 0 && job.message.is_some() => format!("{message}\n"),
        JobState::Done => format!(
            "done: {} runs on {}: paused {}, total {}, {}, {} sent, {}\n",
            job.service,
            job.to,
            text::time_of(statistics.downtime),
            text::time_of(statistics.total_time),
            text::count(statistics.ram.dirty_sync_count as usize, "round"),
            text::bytes(statistics.ram.transferred),
            text::count(job.connections, "connection")
        ),
        JobState::Running => format!("it goes on: {}\n", progress(job)),
        JobState::Failed | JobState::Aborted => {
            let how = if job.state == JobState::Aborted { "given up" } else { "failed" };
            format!("{how}: {message}\n")
        }
    }
}

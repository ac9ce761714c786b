//! Warmfront: a CDN you run yourself. One binary with the roles, the commands of clients and operators, and the demo.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;
mod clock;
mod demo;
mod operate;
mod output;
mod roles;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "warmfront", version, about, max_term_width = 100)]
struct Arguments {
    /// How data is shown
    #[arg(long, global = true, value_enum, default_value_t)]
    output: output::Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything on this machine, on temporary storage
    Demo(demo::DemoArgs),
    /// Run everything in one process, on storage that is kept
    Serve {
        /// Where data is kept
        #[arg(long, value_name = "DIR", default_value = "warmfront-data")]
        data: PathBuf,
    },
    /// Run a control plane
    Control {
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run a cache node, or look after nodes
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Node {
        /// Run the node that this node.toml describes
        #[arg(short, long, value_name = "FILE", required = true)]
        config: Option<PathBuf>,
        #[command(subcommand)]
        command: Option<operate::NodeCommand>,
    },
    /// Configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    #[command(flatten)]
    Client(cli::ClientCommand),
    /// Accounts (operator)
    #[command(subcommand)]
    Account(operate::AccountCommand),
    /// Users of an account (operator)
    #[command(subcommand)]
    User(operate::UserCommand),
    /// What users and keys may do (operator)
    #[command(subcommand)]
    Policy(operate::PolicyCommand),
    /// Access keys (operator)
    #[command(subcommand)]
    Key(operate::KeyCommand),
    /// Who changed what and when, the newest first (operator)
    Audit(operate::AuditArgs),
    /// POPs (operator)
    #[command(subcommand)]
    Pop(operate::PopCommand),
    /// Names of domains that are blocked (operator)
    #[command(subcommand)]
    Name(operate::NameCommand),
    /// The log that nodes follow (operator)
    #[command(subcommand)]
    Log(operate::LogCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a control.toml or node.toml can be used
    Check { file: PathBuf },
}

/// How long threads that still wait for a disk, when everything else has ended, are waited for.
const THREADS_END_MAX: std::time::Duration = std::time::Duration::from_secs(5);

fn main() -> ExitCode {
    // Bodies and tasks are allocated in pieces of a few KiB. If the kernel clears 2 MiB at the first touch of an
    // allocator's page, a fetching node takes twice the memory and spends a third of its CPU time there. If this call
    // fails, the node is only slower.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // A node has a file open for each segment of its disks, and a socket for each client, so the limit is raised as far
    // as the system allows; if it cannot be raised, everything still works.
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: allowed.maximum, ..allowed };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .with_env_var("WARMFRONT_LOG");
    // The demo and client commands talk to a person: only problems are worth a log line.
    let quiet = !matches!(arguments.command, Command::Serve { .. } | Command::Control { .. } | Command::Node { .. });
    let filter =
        if quiet { filter.with_default_directive(tracing::level_filters::LevelFilter::WARN.into()) } else { filter };
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();

    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Node { config: Some(_), command: None } = &arguments.command {
        // A node serves users on its own threads, one per core. The tasks that fetch for them wake other threads far
        // more often than there is work for all of them, and each wake-up costs more than most of that work.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        runtime.worker_threads((cores / 2).max(1));
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("warmfront: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(arguments));
    // A call of a disk that hangs is on a thread that nobody can end. The process must end all the same.
    runtime.shutdown_timeout(THREADS_END_MAX);
    ended
}

async fn run(arguments: Arguments) -> ExitCode {
    let output = arguments.output;
    let done = match &arguments.command {
        Command::Client(command) => {
            let mut out = std::io::stdout();
            return cli::run(command, output, std::sync::Arc::new(clock::SystemClock), &mut out).await;
        }
        Command::Demo(demo) => demo::run(demo).await,
        Command::Serve { data } => roles::serve(data).await,
        Command::Control { config } => roles::control(config).await,
        Command::Node { config: Some(config), command: None } => roles::node(config).await,
        Command::Node { command: Some(command), .. } => operate::node(command, output).await,
        Command::Node { config: None, command: None } => {
            Err(anyhow::anyhow!("expected -c FILE, token, list or remove"))
        }
        Command::Config { command: ConfigCommand::Check { file } } => roles::check(file)
            .and_then(|kind| output.object(&serde_json::json!({ "file": file, "good": true, "kind": kind }))),
        Command::Account(command) => operate::account(command, output).await,
        Command::User(command) => operate::user(command, output).await,
        Command::Policy(command) => operate::policy(command, output).await,
        Command::Key(command) => operate::key(command, output).await,
        Command::Audit(args) => operate::audit(args, &mut std::io::stdout()).await,
        Command::Pop(command) => operate::pop(command, output).await,
        Command::Name(command) => operate::name(command, output).await,
        Command::Log(command) => operate::log(command, output).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warmfront: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! `cargo xtask setup`: installs what a purpose needs and is not there: BPF compiler, bpf-linker, tools of the lab and the VMs.
//!
//! `probe` looks, `plan` decides (pure, tested over made-up machines), `install` acts. What is there already is left alone.

mod install;
mod plan;
mod probe;
mod tools;

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) use tools::Purpose;

/// Install what building, testing and the VMs need.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Consent {
    /// Install without asking; so does CI=true.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Everything, for all purposes.
pub(crate) fn run(consent: Consent) -> Result<()> {
    ensure_ready(Purpose::ALL, consent)
}

/// Makes sure that everything `purposes` need is there; a machine that is ready costs well under a second.
pub(crate) fn ensure_ready(purposes: &[Purpose], consent: Consent) -> Result<()> {
    let begin = Instant::now();
    let mut plan = plan::make(&probe::machine(purposes));
    if plan == plan::Plan::default() {
        println!("setup: nothing to install ({:.1} s)", begin.elapsed().as_secs_f64());
        return Ok(());
    }
    // A step may be refused and lead to another way (rust-src), so the machine is looked at again after each round.
    for _ in 0..ROUNDS {
        if !plan.by_hand.is_empty() {
            bail!(
                "this machine lacks what xtask cannot install here:\n  {}",
                plan.by_hand.join("\n  ")
            );
        }
        carry_out(&plan.steps, consent)?;
        let source_refused = plan.steps.contains(&plan::Step::AddRustSource);
        plan = plan::make(&plan::Machine {
            source_refused,
            ..probe::machine(purposes)
        });
        if plan == plan::Plan::default() {
            println!("setup: all there ({:.0} s)", begin.elapsed().as_secs_f64());
            return Ok(());
        }
    }
    let open: Vec<String> = plan
        .by_hand
        .into_iter()
        .chain(plan.steps.iter().map(ToString::to_string))
        .collect();
    bail!("still missing after setup:\n  {}", open.join("\n  "))
}

/// Plans after which nothing new can come: rust-src, the compiler, a linker for its LLVM.
const ROUNDS: usize = 3;

fn carry_out(steps: &[plan::Step], consent: Consent) -> Result<()> {
    println!("setup: to install:");
    for step in steps {
        println!("  {step}");
    }
    ensure!(is_agreed(consent)?, "nothing was installed");
    for (number, step) in steps.iter().enumerate() {
        println!("setup: {} of {}: {step}", number + 1, steps.len());
        let begin = Instant::now();
        install::perform(step).with_context(|| format!("setup could not {step}"))?;
        println!("setup: done in {:.0} s", begin.elapsed().as_secs_f64());
    }
    Ok(())
}

fn is_agreed(consent: Consent) -> Result<bool> {
    if consent.yes || std::env::var("CI").is_ok_and(|value| value == "true") {
        return Ok(true);
    }
    ensure!(
        std::io::stdin().is_terminal(),
        "nobody to ask: say --yes, or set CI=true"
    );
    print!("install these? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

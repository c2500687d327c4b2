//! A recorded flood gives the same totals when it is replayed; damage is told and costs what it hit alone.

use std::fs;
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};

use super::flood;
use crate::hopline::{Agent, AgentOptions, Replay, Totals};
use crate::lab::Lab;
use crate::topology::busy_loopback;
use crate::verdict::Verdict;

const PER_SECOND: u64 = 1_000;
const SECONDS: u64 = 4;
/// Every second damage is a cut, every other a flipped bit.
const DAMAGED: u64 = 200;
/// Damaged files have so many frames: enough to be hit anywhere, few enough to be replayed two hundred times.
const DAMAGED_FRAMES: usize = 2_000;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let netns = busy_loopback()?;
    let mut server = lab.helper(&["serve", "0.0.0.0:8080/sink"], &netns, &lab.tools)?;
    server.wait_for("ready")?;
    let recording = lab.file("flood.hopline");
    let options = AgentOptions {
        record: Some(&recording),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let made = flood::finish(flood::start(
        lab,
        &netns,
        &lab.traffic,
        &flood::LOUD,
        PER_SECOND,
        SECONDS,
    )?)?
    .total();
    agent.scrape_drained()?;
    let live = agent.totals()?;
    agent.stop()?;

    let bytes = fs::read(&recording)?;
    let frames = frames(&bytes)?;
    let whole = Replay::run(lab, &recording)?;
    verdict.count("frames", whole.frames, frames.len() as u64);
    verdict.count("damaged places in the whole recording", whole.damaged_places, 0);
    let replayed = whole
        .totals
        .with_context(|| format!("nothing was replayed: {}", whole.stderr))?;
    compare(verdict, &replayed, &live, made);

    let some = &frames[..frames.len().min(DAMAGED_FRAMES)];
    let end = some.last().map_or(0, |frame| frame.end);
    damage(lab, verdict, &bytes[..end], some)
}

/// Where each frame of an undamaged recording is: 16 bytes of head, the third word of which is the body's length.
fn frames(bytes: &[u8]) -> Result<Vec<Range<usize>>> {
    let mut frames = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let head = bytes
            .get(start..start + 16)
            .context("recording ends within a frame's head")?;
        let end = start + 16 + u32::from_le_bytes(head[8..12].try_into()?) as usize;
        ensure!(end <= bytes.len(), "recording ends within a frame");
        frames.push(start..end);
        start = end;
    }
    Ok(frames)
}

fn compare(verdict: &mut Verdict, replayed: &Totals, live: &Totals, made: u64) {
    for (of, totals) in [("live", live), ("replayed", replayed)] {
        for sums in ["truth", "series"] {
            let count = totals.get(&format!("/client/{sums}/connections/ok"));
            verdict.count(format!("connects, {of} {sums}"), count, made);
        }
    }
    for (path, count) in live
        .iter()
        .filter(|(path, count)| *count != 0 || replayed.get(path) != 0)
    {
        verdict.count(path, replayed.get(path), count);
    }
}

/// Cuts and flips at places chosen by a fixed seed; the frames that stay whole are known exactly.
fn damage(lab: &Lab, verdict: &mut Verdict, bytes: &[u8], frames: &[Range<usize>]) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(DAMAGED);
    let file = lab.file("damaged.hopline");
    let (mut ended_well, mut told, mut kept) = (0, 0, 0);
    for number in 0..DAMAGED {
        let place = random.usize(1..bytes.len());
        let (damaged, whole, places) = if number % 2 == 0 {
            let whole = frames.iter().filter(|frame| frame.end <= place).count();
            let between = frames.iter().any(|frame| frame.end == place);
            (bytes[..place].to_vec(), whole, u64::from(!between))
        } else {
            let mut damaged = bytes.to_vec();
            damaged[place] ^= 1 << random.u32(0..8);
            (damaged, frames.len() - 1, 1)
        };
        fs::write(&file, damaged)?;
        match Replay::run(lab, &file) {
            Ok(replay) => {
                ended_well += 1;
                told += u64::from(replay.damaged_places == places && (places == 0 || !replay.stderr.is_empty()));
                kept += u64::from(replay.frames == whole as u64);
            }
            Err(error) => eprintln!("lab: damage {number} at {place}: {error:#}"),
        }
    }
    verdict.count(
        "damaged recordings that replay took without a crash",
        ended_well,
        DAMAGED,
    );
    verdict.count("damages told, once each", told, DAMAGED);
    verdict.count("damaged recordings that kept every intact frame", kept, DAMAGED);
    Ok(())
}

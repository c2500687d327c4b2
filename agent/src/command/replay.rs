//! `hopline replay`: the pipeline over recordings instead of rings, without asking the system anything.
use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use super::{CommandError, Logging, print, printer};
use crate::{
    capacity::Share,
    cli::ReplayArgs,
    config::Config,
    export::{human, json},
    pipeline::{Output, PathSettings, Pipeline, PipelineSettings},
    recording::{Damage, Frame, Header, Reader, VERSION},
};

pub(super) fn run(args: &ReplayArgs, logging: Logging) -> Result<ExitCode, CommandError> {
    logging.start_quiet();
    let mut replay = Replay::new(args)?;
    for path in &args.files {
        replay.file(path)?;
    }
    replay.finish(args)?;
    Ok(ExitCode::SUCCESS)
}

/// A replay under way.
struct Replay {
    /// Made for the first header; a recording that has lost its own is replayed with defaults.
    pipeline: Option<Pipeline>,
    /// Of the first file.
    header: Header,
    /// Frames that were whole, by file, and what was not.
    files: Vec<Value>,
    /// Where single connections go, when they are wanted.
    connections: Option<BufWriter<File>>,
    outputs: Vec<Output>,
    json: bool,
    config: Config,
}

impl Replay {
    fn new(args: &ReplayArgs) -> Result<Self, CommandError> {
        let connections = if args.connections {
            Some(BufWriter::new(printer::stdout()?))
        } else {
            None
        };
        let (outputs, files) = (Vec::new(), Vec::new());
        Ok(Self {
            pipeline: None,
            header: Header::default(),
            files,
            connections,
            outputs,
            json: args.json,
            config: Config::read(args.config.as_deref())?,
        })
    }

    fn file(&mut self, path: &Path) -> Result<(), CommandError> {
        let name = path.display();
        let source = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let mut reader = Reader::new(source);
        let mut frames = 0_u64;
        while let Some(frame) = reader.next_frame().with_context(|| format!("cannot read {name}"))? {
            frames += 1;
            self.frame(frame).with_context(|| name.to_string())?;
        }
        let damage = reader.damage();
        if frames == 0 {
            return Err(anyhow!("{name} is not a recording: nothing in it could be read").into());
        }
        if damage.places > 0 {
            eprintln!("{}", damage_line(path, damage));
        }
        self.files.push(json!({
            "file": name.to_string(),
            "frames": frames,
            "damaged_places": damage.places,
            "damaged_bytes": damage.bytes,
        }));
        Ok(())
    }

    fn frame(&mut self, frame: Frame<'_>) -> Result<(), anyhow::Error> {
        if let Frame::Header(header) = frame {
            return self.begin(header);
        }
        let pipeline = self
            .pipeline
            .get_or_insert_with(|| pipeline(&self.header, &self.config, self.connections.is_some()));
        match frame {
            Frame::Sample(sample) => pipeline.apply(sample),
            Frame::Tick(now_ns) => pipeline.tick(now_ns),
            Frame::ClockOffset(offset_ns) => pipeline.set_clock_offset(offset_ns),
            Frame::Header(_) => {}
        }
        self.print_outputs()
    }

    /// Prints what has come out of the pipeline, when single connections are wanted.
    fn print_outputs(&mut self) -> Result<(), anyhow::Error> {
        if let (Some(pipeline), Some(output)) = (&mut self.pipeline, &mut self.connections) {
            pipeline.take_outputs(&mut self.outputs);
            let mut line = Vec::new();
            for record in self.outputs.drain(..) {
                if self.json {
                    json::record_line(&record, &mut line);
                } else {
                    writeln!(line, "{}", human::line(&record))?;
                }
            }
            output.write_all(&line)?;
        }
        Ok(())
    }

    fn begin(&mut self, header: Header) -> Result<(), anyhow::Error> {
        if header.version != VERSION {
            let (found, writer) = (header.version, &header.hopline);
            return Err(anyhow!(
                "a recording of version {found} (hopline {writer}): this hopline reads version {VERSION}"
            ));
        }
        if self.pipeline.is_none() {
            self.pipeline = Some(pipeline(&header, &self.config, self.connections.is_some()));
            self.header = header;
        } else if header.boot_id != self.header.boot_id {
            return Err(anyhow!(
                "recorded on another boot than the file before: replay it alone"
            ));
        }
        Ok(())
    }

    fn finish(mut self, args: &ReplayArgs) -> Result<(), CommandError> {
        self.pipeline.iter_mut().for_each(Pipeline::settle);
        self.print_outputs()?;
        match self.connections.take().map_or(Ok(()), |mut output| output.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        let Some(pipeline) = self.pipeline else { return Ok(()) };
        let snapshot = pipeline.snapshot();
        if args.json {
            let whole = json!({
                "recording": { "header": self.header, "files": self.files },
                "totals": json::totals(&snapshot),
                "destinations": json::destinations(&snapshot),
            });
            return print(&format!("{whole}\n"));
        }
        let events: u64 = snapshot.counts.events.iter().sum();
        let header = &self.header;
        print(&format!(
            "{events} events from {} (kernel {}), {} malformed, {} of unknown kind\n\n{}",
            header.node,
            header.kernel,
            snapshot.counts.malformed,
            snapshot.counts.unknown_kind,
            human::table(&snapshot)
        ))
    }
}

/// A pipeline as the recording agent had it, but for what only its machine could tell.
fn pipeline(header: &Header, config: &Config, collect: bool) -> Pipeline {
    let defaults = PipelineSettings::default();
    let or = |recorded: u64, default: usize| if recorded == 0 { default } else { recorded as usize };
    let mut pipeline = Pipeline::new(PipelineSettings {
        node: header.node.clone(),
        boot_id: header.boot_id.clone(),
        max_connections: or(header.max_connections, defaults.max_connections),
        max_processes: or(header.max_processes, defaults.max_processes),
        max_series: or(header.max_series, defaults.max_series),
        // One that had less memory may have dropped more.
        tables: Share::WHOLE,
        waiting_after_ns: if header.waiting_after_ns == 0 {
            defaults.waiting_after_ns
        } else {
            header.waiting_after_ns
        },
        stuck_after_ns: if header.stuck_after_ns == 0 {
            defaults.stuck_after_ns
        } else {
            header.stuck_after_ns
        },
        groups: config.groups(),
        declared: config.declared.clone(),
        rtt_spike: config.rtt_spike.settings(),
        // What traces told is in no recording.
        paths: PathSettings::default(),
        read_proc: false,
        environment: Vec::new(),
        cgroup_root: None,
    });
    pipeline.set_clock_offset(header.clock_offset_ns);
    pipeline.set_collect(collect);
    pipeline
}

fn damage_line(path: &Path, damage: &Damage) -> String {
    let first: Vec<String> = damage
        .first
        .iter()
        .map(|place| format!("{}-{}", place.start, place.end))
        .collect();
    let more = if damage.places > first.len() as u64 {
        ", …"
    } else {
        ""
    };
    format!(
        "hopline: {}: {} damaged places, {} bytes skipped, at {}{more}",
        path.display(),
        damage.places,
        damage.bytes,
        first.join(", ")
    )
}

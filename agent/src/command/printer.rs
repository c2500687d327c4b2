//! The thread that writes records: a slow reader of the output holds up this thread and the rings, nothing else.
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::AsFd as _,
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::filter::Filter;
use crate::{
    export::{human, json},
    pipeline::Output,
};

/// How records are written.
#[derive(Debug)]
pub(super) struct Style {
    /// JSON, else lines for people.
    pub(super) json: bool,
    /// Which records.
    pub(super) filter: Filter,
    /// End after so many lines.
    pub(super) count: Option<u64>,
}

/// stdout without the lock and the line buffering of `io::stdout`.
pub(super) fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Writes what comes until nothing more does, enough is written, or nobody reads; the receiver tells which end it was.
pub(super) fn start(
    style: Style,
    output: File,
    records: mpsc::Receiver<Vec<Output>>,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (done, result) = oneshot::channel();
    thread::Builder::new().name("printer".to_owned()).spawn(move || {
        // The command may have ended already.
        drop(done.send(print(&style, BufWriter::new(output), records)));
    })?;
    Ok(result)
}

fn print(style: &Style, output: impl Write, records: mpsc::Receiver<Vec<Output>>) -> io::Result<()> {
    match write_all(style, output, records) {
        // `hopline trace | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn write_all(style: &Style, mut output: impl Write, mut records: mpsc::Receiver<Vec<Output>>) -> io::Result<()> {
    let mut left = style.count;
    let mut line = Vec::new();
    if !style.json {
        writeln!(output, "{}", human::line_header())?;
        output.flush()?;
    }
    while let Some(batch) = records.blocking_recv() {
        for record in batch.iter().filter(|record| style.filter.accepts(record)) {
            line.clear();
            if style.json {
                json::record_line(record, &mut line);
            } else {
                writeln!(line, "{}", human::line(record))?;
            }
            output.write_all(&line)?;
            left = left.map(|left| left - 1);
            if left == Some(0) {
                return output.flush();
            }
        }
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::human::tests::record;

    fn lines(json: bool, count: Option<u64>, records: usize) -> usize {
        let (sender, receiver) = mpsc::channel(1);
        let batch = (0..records).map(|_| Output::Finished(Box::new(record()))).collect();
        sender.try_send(batch).expect("room for one");
        drop(sender);
        let mut output = Vec::new();
        print(
            &Style {
                json,
                filter: Filter::default(),
                count,
            },
            &mut output,
            receiver,
        )
        .expect("writing to memory");
        String::from_utf8(output).expect("text").lines().count()
    }

    #[test]
    fn ends_with_the_records_or_with_the_count() {
        assert_eq!(lines(true, None, 5), 5);
        assert_eq!(lines(true, Some(3), 5), 3);
        assert_eq!(lines(false, None, 5), 6);
        assert_eq!(lines(false, Some(9), 5), 6);
    }
}

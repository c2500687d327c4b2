//! Histories of starts and ends, each with the mode that the next start has.
use super::*;

/// What happens, one after the other.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A start after so many seconds.
    Start(u64),
    /// A clean end after so many seconds.
    End(u64),
    /// The machine boots; the agent starts so many seconds later.
    Boot(u64),
    /// The same with another kernel.
    OtherKernel(u64),
    /// A start of another version after so many seconds.
    Update(u64),
    /// Somebody asks to leave safe mode.
    Leave,
}
use Step::{Boot, End, Leave, OtherKernel, Start, Update};

/// A machine whose wall clock jumps at every step: nothing may depend on it.
struct Machine {
    now: Moment,
    boots: u32,
    record: Option<Record>,
    leave: bool,
    last: Option<Judgement>,
}

impl Machine {
    fn new() -> Self {
        Self {
            now: Moment {
                boot_id: "boot 0".to_owned(),
                uptime_s: 0,
                hopline: "1.0".to_owned(),
                kernel: "6.12 #1".to_owned(),
                unix_s: 1_800_000_000,
            },
            boots: 0,
            record: None,
            leave: false,
            last: None,
        }
    }

    fn step(&mut self, step: Step) {
        self.now.unix_s = self.now.unix_s.wrapping_mul(7) % 3_000_000_000;
        match step {
            Start(after_s) => self.start(after_s),
            End(after_s) => {
                self.now.uptime_s += after_s;
                let record = self.record.as_mut().expect("started");
                record.clean = true;
                record.ended_s = self.now.uptime_s;
            }
            Boot(after_s) => {
                self.boots += 1;
                self.now.boot_id = format!("boot {}", self.boots);
                self.now.uptime_s = 0;
                self.start(after_s);
            }
            OtherKernel(after_s) => {
                self.now.kernel.push('+');
                self.step(Boot(after_s));
            }
            Update(after_s) => {
                self.now.hopline.push('+');
                self.start(after_s);
            }
            Leave => self.leave = true,
        }
    }

    fn start(&mut self, after_s: u64) {
        self.now.uptime_s += after_s;
        let judgement = judge(self.record.as_ref(), self.leave, &self.now);
        self.leave = false;
        self.record = Some(Record {
            clean: false,
            ended_s: 0,
            history: judgement.history.clone(),
        });
        self.last = Some(judgement);
    }
}

/// Runs the steps; the mode of the last start.
fn check(steps: &[Step], expected: Option<Reason>) {
    let mut machine = Machine::new();
    for step in steps {
        machine.step(*step);
    }
    let last = machine.last.expect("a start");
    assert_eq!(last.safe_mode.map(|mode| mode.reason), expected, "{steps:?}");
}

const DAY: u64 = 86_400;
const TWO_BOOTS: Option<Reason> = Some(Reason::UncleanBoots(2));
const FIVE_ENDS: Option<Reason> = Some(Reason::UncleanEnds(5));

#[test]
fn two_unclean_boots() {
    check(&[Start(9)], None);
    check(&[Start(9), Boot(9)], None);
    check(&[Start(9), Boot(9), Boot(9)], TWO_BOOTS);
    check(&[Start(9), Boot(9), Boot(9), Boot(9)], Some(Reason::UncleanBoots(3)));
    // A clean end before the reboot.
    check(&[Start(9), Boot(9), End(5), Boot(9)], None);
    check(&[Start(9), End(5), Boot(9), End(5), Boot(9)], None);
    // In between it counts for nothing.
    check(&[Start(9), Boot(9), End(5), Boot(9), Boot(9)], TWO_BOOTS);
    // hopline did not run in the boot that ended.
    check(&[Start(9), End(5), Boot(9), Boot(9)], None);
    // A crash of the agent within a boot is no end of the boot.
    check(&[Start(9), Start(5), Boot(9)], None);
    // The agent is started a day after the boot.
    check(&[Start(9), Boot(9), Boot(DAY)], None);
    check(&[Start(9), Boot(9), Boot(DAY - 1)], TWO_BOOTS);
    // The second within a week, or later.
    check(&[Start(9), Boot(9), End(6 * DAY), Start(9), Boot(9)], TWO_BOOTS);
    check(&[Start(9), Boot(9), End(8 * DAY), Start(9), Boot(9)], None);
    check(
        &[
            Start(9),
            Boot(9),
            End(4 * DAY),
            Boot(9),
            End(4 * DAY),
            Start(9),
            Boot(9),
        ],
        None,
    );
}

#[test]
fn five_unclean_ends_in_ten_minutes() {
    let killed = |gaps: &[u64]| {
        let mut steps = vec![Start(9)];
        steps.extend(gaps.iter().map(|gap| Start(*gap)));
        steps
    };
    check(&killed(&[1; 4]), None);
    check(&killed(&[1; 5]), FIVE_ENDS);
    check(&killed(&[1; 12]), FIVE_ENDS);
    check(&killed(&[140; 5]), FIVE_ENDS);
    check(&killed(&[160; 12]), None);
    // A clean one does not count, and takes none away.
    check(
        &[Start(9), Start(1), Start(1), Start(1), Start(1), End(1), Start(1)],
        None,
    );
    check(
        &[
            Start(9),
            Start(1),
            Start(1),
            Start(1),
            Start(1),
            End(1),
            Start(1),
            Start(1),
        ],
        FIVE_ENDS,
    );
    // Another boot begins anew.
    check(
        &[
            Start(9),
            Start(1),
            Start(1),
            Start(1),
            Start(1),
            End(1),
            Boot(1),
            Start(1),
            Start(1),
        ],
        None,
    );
}

#[test]
fn ways_out_of_safe_mode() {
    let died = [Start(9), Boot(9), Boot(9)];
    let then = |steps: &[Step], expected| check(&[&died, steps].concat(), expected);
    then(&[End(DAY - 20), Start(5)], TWO_BOOTS);
    then(&[End(DAY), Start(1)], None);
    // Over clean reboots, what each boot ran adds up; time switched off does not.
    then(&[End(DAY / 2), Boot(9), End(DAY / 4), Boot(9)], TWO_BOOTS);
    then(&[End(DAY / 2), Boot(9), End(DAY / 2), Boot(9)], None);
    // An unclean end begins the day anew.
    then(&[Start(DAY - 20), End(DAY - 20), Start(5)], TWO_BOOTS);
    then(&[Start(DAY - 20), End(DAY), Start(5)], None);
    then(
        &[End(DAY - 20), Boot(9), Boot(30), End(DAY / 2), Start(5)],
        Some(Reason::UncleanBoots(3)),
    );
    // Then all is forgotten.
    then(&[End(DAY), Start(1), Boot(9)], None);
    then(&[End(DAY), Start(1), Boot(9), Boot(9)], TWO_BOOTS);
    then(&[Update(5)], None);
    then(&[Update(5), Boot(9)], None);
    then(&[OtherKernel(5)], None);
    then(&[Leave, Start(5)], None);
    then(&[Leave, Start(5), Boot(9)], None);
    // Five ends outlast their ten minutes.
    let killed = [Start(9), Start(1), Start(1), Start(1), Start(1), Start(1)];
    check(&[&killed[..], &[End(1_000), Start(1)]].concat(), FIVE_ENDS);
}

#[test]
fn a_start_says_why_it_left_and_how_long_it_lasts() {
    let mut machine = Machine::new();
    for step in [Start(9), Boot(9), Boot(100)] {
        machine.step(step);
    }
    let first = machine.last.clone().expect("a start");
    assert_eq!(first.remaining, Duration::from_secs(DAY - 100));
    machine.step(Start(50));
    let second = machine.last.clone().expect("a start");
    assert_eq!(second.remaining, Duration::from_secs(DAY));
    let since = |judgement: &Judgement| judgement.safe_mode.as_ref().map(|mode| mode.since_unix_s);
    assert_eq!(since(&first), since(&second));
    machine.step(Update(1));
    let third = machine.last.clone().expect("a start");
    assert_eq!(
        (third.left, third.remaining),
        (Some("a new version of hopline"), Duration::ZERO)
    );
    machine.step(Update(1));
    assert_eq!(machine.last.expect("a start").left, None);
}

#[test]
fn who_only_looks_does_not_take_a_running_agent_for_a_dead_one() {
    let mut machine = Machine::new();
    for step in [Start(9), Start(1), Start(1), Start(1), Start(1)] {
        machine.step(step);
    }
    let look = |machine: &Machine| {
        let record = machine.record.as_ref().expect("started");
        judge_running(record, machine.leave, &machine.now)
            .safe_mode
            .map(|mode| mode.reason)
    };
    assert_eq!(look(&machine), None);
    machine.step(Start(1));
    assert_eq!(look(&machine), FIVE_ENDS);
    machine.step(Leave);
    assert_eq!(look(&machine), None);

    // Before the agent has started in a boot, the one before has ended.
    let mut machine = Machine::new();
    machine.step(Start(9));
    machine.step(Boot(9));
    machine.now.boot_id = "next".to_owned();
    assert_eq!(look(&machine), TWO_BOOTS);
}

#[test]
fn clocks_that_make_no_sense_are_survived() {
    let mut machine = Machine::new();
    machine.step(Start(u64::MAX / 2));
    machine.step(End(9));
    machine.now.uptime_s = 0;
    machine.step(Start(0));
    let record = machine.record.as_mut().expect("started");
    record.history.quiet_s = u64::MAX;
    record.history.unclean_boots = u32::MAX;
    machine.step(Boot(1));
    assert!(machine.last.is_some());
}

//! A seccomp filter from a list of rules: a classic BPF program.
//!
//! Ours and not a library's because it needs three things together that none gives: three different answers in one program, user notification
//! as one of them, and a check that no call arrives under another numbering (32-bit programs, x32), under which every list would be
//! useless. The kernel remembers numbers that are always allowed and does not run the program for them, so its length costs little.

/// `SECCOMP_RET_ALLOW`.
const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_KILL_PROCESS`.
const KILL: u32 = 0x8000_0000;
/// `SECCOMP_RET_USER_NOTIF`.
const NOTIFY: u32 = 0x7fc0_0000;
/// `SECCOMP_RET_ERRNO`.
const ERRNO: u32 = 0x0005_0000;

/// Load a word of the call's description.
const LOAD: u16 = 0x20;
/// A and a constant.
const AND: u16 = 0x54;
const JUMP_ALWAYS: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where the description has the number, the architecture and the low word of the first argument.
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;
const AT_ARGUMENTS: u32 = 16;

/// Numbers from here on belong to x32, a second numbering on x86-64.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// `AUDIT_ARCH_*` of the processor that this is built for.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Allow,
    /// The listener decides, and it always denies or leaves it to the kernel.
    Ask,
    Errno(i32),
}

/// What a call's argument must be for a rule to hold. Only the low 32 bits are looked at: the kernel looks at no more of these arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) argument: u8,
    pub(crate) mask: u32,
    pub(crate) value: u32,
}

/// What happens to calls of one number: the first case whose test holds, else the last answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) number: u32,
    pub(crate) cases: Vec<(Vec<Test>, Answer)>,
    pub(crate) otherwise: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

/// The program as the kernel reads it. Numbers that no rule names do not exist: `ENOSYS`.
pub(crate) fn compile(rules: &[Rule]) -> Vec<u8> {
    let mut program = vec![
        load(AT_ARCH),
        jump(JUMP_EQUAL, ARCH, 1, 0),
        end(KILL),
        load(AT_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([
        jump(JUMP_GREATER_OR_EQUAL, X32, 0, 1),
        end(Answer::Errno(NO_SUCH_CALL).value()),
    ]);
    let (plain, tested): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| rule.cases.is_empty());
    for rule in tested {
        let body = body(rule);
        let length = u8::try_from(body.len()).expect("a rule has a handful of cases");
        program.push(jump(JUMP_EQUAL, rule.number, 0, length));
        program.extend(body);
    }
    let mut answers: Vec<(u32, Answer)> = plain.iter().map(|rule| (rule.number, rule.otherwise)).collect();
    answers.sort_unstable_by_key(|(number, _)| *number);
    program.extend(search(&ranges(&answers)));
    program.iter().flat_map(|it| it.to_bytes()).collect()
}

const NO_SUCH_CALL: i32 = libc::ENOSYS;

/// Ranges of numbers with one answer, each from its first number to the next range's: all numbers there are.
fn ranges(answers: &[(u32, Answer)]) -> Vec<(u32, Answer)> {
    let none = Answer::Errno(NO_SUCH_CALL);
    let mut ranges = vec![(0, none)];
    for (number, answer) in answers {
        for (first, answer) in [(*number, *answer), (*number + 1, none)] {
            // A number right behind the one before takes the place of the gap that was assumed there.
            ranges.pop_if(|(last, _)| *last == first);
            if ranges.last().is_none_or(|(_, same)| *same != answer) {
                ranges.push((first, answer));
            }
        }
    }
    ranges
}

/// Finds the range by halves. The kernel tries every number when a filter is installed, so the way to an answer should be short.
fn search(ranges: &[(u32, Answer)]) -> Vec<Instruction> {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let Some((middle, answer)) = upper.first() else {
        return vec![end(Answer::Errno(NO_SUCH_CALL).value())];
    };
    if lower.is_empty() {
        return vec![end(answer.value())];
    }
    let (below, above) = (search(lower), search(upper));
    // A jump leads over 255 instructions at most: over what is below with one step in between.
    let over = u32::try_from(below.len()).expect("a handful of ranges");
    let mut all = vec![
        jump(JUMP_GREATER_OR_EQUAL, *middle, 0, 1),
        Instruction {
            code: JUMP_ALWAYS,
            jump_true: 0,
            jump_false: 0,
            value: over,
        },
    ];
    if let Ok(over) = u8::try_from(over) {
        all = vec![jump(JUMP_GREATER_OR_EQUAL, *middle, over, 0)];
    }
    all.extend(below);
    all.extend(above);
    all
}

/// Ends with a return on every way, so nothing behind it relies on what is loaded.
fn body(rule: &Rule) -> Vec<Instruction> {
    let mut body = Vec::new();
    for (tests, answer) in &rule.cases {
        // Per test: load, mask, compare; a test that fails leads behind the case's return.
        let mut case = Vec::new();
        for (nth, test) in tests.iter().enumerate() {
            let to_end = u8::try_from((tests.len() - nth - 1) * 3 + 1).expect("a case has a few tests");
            case.extend([
                load(AT_ARGUMENTS + 8 * u32::from(test.argument)),
                Instruction {
                    code: AND,
                    jump_true: 0,
                    jump_false: 0,
                    value: test.mask,
                },
                jump(JUMP_EQUAL, test.value, 0, to_end),
            ]);
        }
        case.push(end(answer.value()));
        body.extend(case);
    }
    body.push(end(rule.otherwise.value()));
    body
}

fn load(at: u32) -> Instruction {
    Instruction {
        code: LOAD,
        jump_true: 0,
        jump_false: 0,
        value: at,
    }
}

fn jump(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        value,
    }
}

fn end(value: u32) -> Instruction {
    Instruction {
        code: RETURN,
        jump_true: 0,
        jump_false: 0,
        value,
    }
}

// === impl Answer ===

impl Answer {
    fn value(self) -> u32 {
        match self {
            Self::Allow => ALLOW,
            Self::Ask => NOTIFY,
            Self::Errno(errno) => ERRNO | (errno.unsigned_abs() & 0xffff),
        }
    }
}

// === impl Instruction ===

impl Instruction {
    fn to_bytes(self) -> [u8; 8] {
        let ([a, b], [c, d, e, f]) = (self.code.to_ne_bytes(), self.value.to_ne_bytes());
        [a, b, self.jump_true, self.jump_false, c, d, e, f]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the kernel would answer. Panics where it would refuse the program.
    pub(crate) fn run(program: &[u8], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let word = |at: u32| match at {
            AT_NUMBER => number,
            AT_ARCH => arch,
            at => {
                let nth = (at - AT_ARGUMENTS) / 8;
                assert_eq!((at - AT_ARGUMENTS) % 8, 0, "only low words are looked at");
                arguments[nth as usize] as u32
            }
        };
        let instructions: Vec<_> = program.chunks_exact(8).collect();
        let (mut at, mut a) = (0, 0);
        loop {
            let it = instructions[at];
            let code = u16::from_ne_bytes([it[0], it[1]]);
            let value = u32::from_ne_bytes([it[4], it[5], it[6], it[7]]);
            at += 1;
            let taken = match code {
                LOAD => {
                    a = word(value);
                    continue;
                }
                AND => {
                    a &= value;
                    continue;
                }
                RETURN => return value,
                JUMP_ALWAYS => {
                    at += value as usize;
                    continue;
                }
                JUMP_EQUAL => a == value,
                JUMP_GREATER_OR_EQUAL => a >= value,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if taken { it[2] } else { it[3] });
        }
    }

    pub(crate) fn answer(program: &[u8], number: u32, arguments: [u64; 6]) -> Answer {
        match run(program, ARCH, number, arguments) {
            ALLOW => Answer::Allow,
            NOTIFY => Answer::Ask,
            value => {
                assert_eq!(value & 0xffff_0000, ERRNO);
                Answer::Errno((value & 0xffff) as i32)
            }
        }
    }

    fn plain(number: u32, answer: Answer) -> Rule {
        Rule {
            number,
            cases: Vec::new(),
            otherwise: answer,
        }
    }

    #[test]
    fn every_number_gets_its_answer_and_others_do_not_exist() {
        let rules: Vec<Rule> = (0..450)
            .filter(|number| number % 7 != 0)
            .map(|number| {
                let answer = if number % 5 == 0 {
                    Answer::Ask
                } else {
                    Answer::Allow
                };
                plain(number, answer)
            })
            .collect();
        let program = compile(&rules);
        for number in 0..600 {
            let expected = rules
                .iter()
                .find(|it| it.number == number)
                .map_or(Answer::Errno(libc::ENOSYS), |it| it.otherwise);
            assert_eq!(answer(&program, number, [0; 6]), expected, "{number}");
        }
    }

    #[test]
    fn cases_are_tried_in_order_and_all_tests_of_one_must_hold() {
        let test = |argument, mask, value| Test {
            argument,
            mask,
            value,
        };
        let rule = Rule {
            number: 41,
            cases: vec![
                (vec![test(0, u32::MAX, 1)], Answer::Allow),
                (vec![test(0, u32::MAX, 2), test(1, 0xf, 1)], Answer::Ask),
            ],
            otherwise: Answer::Errno(13),
        };
        let program = compile(&[rule, plain(42, Answer::Allow)]);
        for (arguments, expected) in [
            ([1, 9], Answer::Allow),
            ([2, 1 | 0x80000], Answer::Ask),
            ([2, 2], Answer::Errno(13)),
            ([3, 1], Answer::Errno(13)),
            // The kernel takes an int: what is above it must not matter.
            ([1 | 5 << 32, 0], Answer::Allow),
        ] {
            let [a, b] = arguments;
            assert_eq!(
                answer(&program, 41, [a, b, 0, 0, 0, 0]),
                expected,
                "{arguments:?}"
            );
        }
        assert_eq!(answer(&program, 42, [7; 6]), Answer::Allow);
    }

    #[test]
    fn another_numbering_gets_nowhere() {
        let program = compile(&[plain(0, Answer::Allow)]);
        assert_eq!(run(&program, 0x4000_0003, 0, [0; 6]), KILL, "32-bit x86");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(answer(&program, X32, [0; 6]), Answer::Errno(libc::ENOSYS));
    }
}

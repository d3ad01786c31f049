//! Calls: judging them, and carrying out the answer.

use crate::control;
use crate::frame::{Frame, Place, is_interrupted};
use crate::registers::{self, Registers};
use crate::select::{CLONE_UNTRACED, Wanted};
use crate::threads::{Again, AtExit, Phase, Stand};
use crate::tracee::Stopped;
use crate::tracer::{Mode, Tracer};
use crate::worker::{Answer, Job, Task};
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::{Abi, InterceptedCall, Outcome, Patience, Reply, Syscall};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// How many system call stops are looked at to learn what became of an interrupted call.
const PATIENCE: u8 = 32;

impl Tracer {
    /// The filter asks.
    pub(crate) fn on_seccomp(&mut self, tid: Pid) {
        let place = control::place(tid);
        match self.check(tid, place) {
            Some(Place::Seccomp(frame)) => {
                self.settle(tid);
                match self.selector.stopped_by_filter(&frame) {
                    Some(wanted) => self.on_wanted(tid, frame, wanted),
                    // A filter of the program's own, for a tracer that it can't have.
                    None => self.refuse(tid, Errno::ENOSYS),
                }
            }
            Some(_) => self.refuse(tid, Errno::ENOSYS),
            None => {}
        }
    }

    pub(crate) fn on_wanted(&mut self, tid: Pid, frame: Frame, wanted: Wanted) {
        match wanted {
            Wanted::Judge(syscall) => self.judge(tid, syscall, Stand::Entry(frame)),
            Wanted::Clone => self.make_clone_traced(tid, frame),
            Wanted::Clone3 => self.make_clone3_traced(tid, frame),
            // As it is where a supervisor listens already.
            Wanted::Listener if self.attached.is_none() => self.refuse(tid, Errno::EBUSY),
            // It comes after our stops.
            Wanted::Listener => self.resume(tid, 0),
        }
    }

    pub(crate) fn judge(&mut self, tid: Pid, syscall: Syscall, stand: Stand) {
        let Some(pid) = self.threads.get(tid).map(|thread| thread.pid) else { return };
        let (Stand::Entry(frame) | Stand::Exit(frame)) = stand;
        self.last_id = self.last_id.wrapping_add(1);
        let call = InterceptedCall { id: self.last_id, tid, abi: frame.abi, syscall, args: frame.args };
        let waiting = Arc::new(AtomicBool::new(true));
        let mut tracee =
            Stopped { tid, pid, remotes: Arc::clone(&self.remotes), waiting, patience: Patience::AtOnce };
        let task = match self.handler.handle(&call, &tracee, Patience::AtOnce) {
            Outcome::Reply(reply) => return self.carry_out(tid, call, stand, &reply),
            // Its memory may have to be waited for.
            Outcome::Look(reply, look) => Task::Look(reply, look),
            Outcome::NeedsPatience => Task::Judge,
        };
        let registers = control::registers(tid);
        let Some(registers) = self.check(tid, registers) else {
            // Gone, or its process ended by us: nobody is left to be answered.
            if self.observe && matches!(task, Task::Look(Reply::Continue | Reply::OpenSocket { .. }, _)) {
                self.handler.abandoned(&call);
            }
            return;
        };
        tracee.patience = Patience::MayBlock;
        if let Some(thread) = self.threads.get(tid) {
            let waiting = Arc::clone(&tracee.waiting);
            thread.phase = Phase::Judged { call, stand, waiting };
            self.workers.submit(Job { call, tracee, registers, task });
        }
    }

    /// Carries out what the workers have found, for threads that still wait for it.
    pub(crate) fn carry_out_answers(&mut self) {
        for Answer { call, reply } in self.workers.answers() {
            // A SIGKILL may have moved it on meanwhile, which must be seen before it is moved further.
            if let Some(change) = control::poll_one(call.tid) {
                self.on_change(call.tid, change);
            }
            let judged = self.threads.get(call.tid).and_then(|thread| match &thread.phase {
                Phase::Judged { call: judged, stand, .. } if judged.id == call.id => {
                    let stand = *stand;
                    thread.phase = Phase::Running;
                    Some(Some(stand))
                }
                Phase::Held { call: held, .. } if held.id == call.id => {
                    thread.phase = Phase::Running;
                    Some(None)
                }
                _ => None,
            });
            match judged {
                Some(Some(stand)) => self.carry_out(call.tid, call, stand, &reply),
                Some(None) => self.resume(call.tid, 0),
                None if self.observe && matches!(reply, Reply::Continue | Reply::OpenSocket { .. }) => {
                    self.handler.abandoned(&call);
                }
                None => {}
            }
        }
    }

    fn carry_out(&mut self, tid: Pid, call: InterceptedCall, stand: Stand, reply: &Reply) {
        let carried = match (reply, stand) {
            (Reply::Continue, Stand::Entry(frame)) => {
                if self.awaits_result(&call) {
                    self.set_phase(tid, Phase::Leaving(AtExit::Observe(call, frame)));
                }
                Ok(())
            }
            (Reply::Continue, Stand::Exit(frame)) => self.make_again(tid, call, frame),
            (Reply::Return(value), stand) => Self::give(tid, stand, *value),
            (Reply::Fail(errno), stand) => Self::give(tid, stand, -i64::from(*errno as i32)),
            (Reply::Restart, Stand::Entry(frame)) => {
                self.set_phase(tid, Phase::Leaving(AtExit::Restart(frame)));
                // The value is never seen: the exit replaces it, or the thread is killed.
                Self::give(tid, stand, -i64::from(Errno::EINTR as i32))
            }
            (Reply::Restart, Stand::Exit(frame)) => Self::interrupt(tid, frame.number),
            (Reply::OpenSocket { domain, kind, protocol }, stand) => {
                self.open_socket(tid, call, stand, [*domain, *kind, *protocol])
            }
        };
        self.check(tid, carried);
        self.go_on(tid, 0);
    }

    fn awaits_result(&self, call: &InterceptedCall) -> bool {
        self.observe && self.handler.awaits_result(call)
    }

    /// The call isn't carried out, and gives `value`.
    fn give(tid: Pid, stand: Stand, value: i64) -> Result<(), Errno> {
        if matches!(stand, Stand::Entry(_)) {
            return registers::skip(tid, value);
        }
        let mut registers = Registers::load(tid)?;
        registers.set_result(value);
        registers.store()
    }

    pub(crate) fn refuse(&mut self, tid: Pid, errno: Errno) {
        let refused = registers::skip(tid, -i64::from(errno as i32));
        self.check(tid, refused);
        self.resume(tid, 0);
    }

    /// At a call's exit: it was interrupted before it did anything, and the kernel is to see to the rest.
    ///
    /// Its signal code does that on the way back to user space, but only takes that way if there is a
    /// signal: the one that interrupted the call may be another thread's meanwhile, and user space would see
    /// errno 512. PTRACE_INTERRUPT makes sure that the way is taken.
    fn interrupt(tid: Pid, number: i32) -> Result<(), Errno> {
        control::interrupt(tid)?;
        let mut registers = Registers::load(tid)?;
        registers.set_interrupted(number)?;
        registers.store()
    }

    /// At a call's exit: makes it again, this time without judging it.
    fn make_again(&mut self, tid: Pid, call: InterceptedCall, frame: Frame) -> Result<(), Errno> {
        let mut registers = Registers::load(tid)?;
        registers.make_again(frame.number);
        registers.store()?;
        let at_exit = self.awaits_result(&call).then_some(AtExit::Observe(call, frame));
        if let Some(thread) = self.threads.get(tid) {
            thread.again = Some(Again { frame, at_exit });
        }
        Ok(())
    }

    /// The call becomes socket(2) with these very values.
    fn open_socket(
        &mut self,
        tid: Pid,
        call: InterceptedCall,
        stand: Stand,
        values: [i32; 3],
    ) -> Result<(), Errno> {
        let (Stand::Entry(frame) | Stand::Exit(frame)) = stand;
        let Some(number) = Syscall::Socket.number(frame.abi) else { return Err(Errno::ENOSYS) };
        let mut registers = Registers::load(tid)?;
        let before = registers.arguments(frame.abi);
        let mut arguments = before;
        for (argument, value) in arguments.iter_mut().zip(values) {
            // int: the kernel ignores the upper half.
            *argument = u64::from(value as u32);
        }
        registers.set_arguments(frame.abi, arguments, false);
        let restore = AtExit::Restore(frame, Box::new(before), self.observe.then_some(call));
        match stand {
            Stand::Entry(_) => {
                registers.set_call(number)?;
                self.set_phase(tid, Phase::Leaving(restore));
            }
            Stand::Exit(_) => {
                registers.make_again(number);
                let mut args = frame.args;
                for (arg, argument) in args.iter_mut().zip(arguments).take(3) {
                    *arg = argument;
                }
                if let Some(thread) = self.threads.get(tid) {
                    thread.again = Some(Again { frame: Frame { number, args, ..frame }, at_exit: Some(restore) });
                }
            }
        }
        registers.store()
    }

    /// clone(2) that asks for a child that isn't traced: it would be out of our sight, and its trapped calls
    /// would fail. So the flag is cleared, and the register restored at the call's exit.
    fn make_clone_traced(&mut self, tid: Pid, frame: Frame) {
        let cleared = Registers::load(tid).and_then(|mut registers| {
            let before = registers.arguments(frame.abi);
            let mut arguments = before;
            if let Some(flags) = arguments.first_mut() {
                *flags &= !CLONE_UNTRACED;
            }
            registers.set_arguments(frame.abi, arguments, false);
            registers.store()?;
            Ok(before)
        });
        if let Some(before) = self.check(tid, cleared) {
            self.set_phase(tid, Phase::Leaving(AtExit::Restore(frame, Box::new(before), None)));
        }
        self.resume(tid, 0);
    }

    /// clone3(2): the flags are in memory. Another thread may set the flag behind our back: the child is then
    /// not traced, and its trapped calls fail with ENOSYS. Where it has no filter, they would not.
    fn make_clone3_traced(&mut self, tid: Pid, frame: Frame) {
        if self.mode == Mode::FullStop && (self.attached.is_none() || self.refuses) {
            // Nothing would trap that child's calls. Programs take it for an older kernel, and use clone(2).
            return self.refuse(tid, Errno::ENOSYS);
        }
        let address = frame.args[0];
        // Where that can't be read, the kernel will fail, or wait for it.
        if let Ok(word) = control::peek(tid, address)
            && word & CLONE_UNTRACED != 0
        {
            match control::poke(tid, address, word & !CLONE_UNTRACED) {
                Ok(()) => self.set_phase(tid, Phase::Leaving(AtExit::Poke { address, word })),
                Err(Errno::ESRCH) => return,
                // Not writable even by a tracer: as above.
                Err(_) => return self.refuse(tid, Errno::ENOSYS),
            }
        }
        self.resume(tid, 0);
    }

    fn set_phase(&mut self, tid: Pid, phase: Phase) {
        if let Some(thread) = self.threads.get(tid) {
            thread.phase = phase;
        }
    }

    /// The thread makes a call that matters while the fate of an interrupted one is open. Made again, it is a
    /// call of its own; and if it is another (a handler of the program's makes it), nobody will see the result
    /// of the interrupted one any more.
    pub(crate) fn settle(&mut self, tid: Pid) {
        let Some(thread) = self.threads.get(tid) else { return };
        let Phase::Interrupted { call, .. } = thread.phase else { return };
        thread.phase = Phase::Running;
        self.handler.abandoned(&call);
    }

    /// At the entry to or the exit from a call.
    pub(crate) fn on_syscall(&mut self, tid: Pid, place: Place) {
        match place {
            Place::Entry(frame) => {
                self.look_at_entry(tid, &frame);
                if self.mode == Mode::FullStop {
                    self.on_entry(tid, frame);
                } else {
                    self.resume(tid, 0);
                }
            }
            Place::Exit { ip, sp, value } => self.at_exit(tid, ip, sp, value),
            Place::Foreign => self.refuse(tid, Errno::ENOSYS),
            Place::Seccomp(_) | Place::Elsewhere => self.resume(tid, 0),
        }
    }

    /// Learns from the next calls what became of an interrupted one.
    fn look_at_entry(&mut self, tid: Pid, made: &Frame) {
        let Some(thread) = self.threads.get(tid) else { return };
        if let Phase::Interrupted { frame, patience, .. } = &mut thread.phase {
            *patience = patience.saturating_sub(1);
            if *patience == 0 || frame.is_same_call(made) {
                self.settle(tid);
            }
        }
    }

    fn at_exit(&mut self, tid: Pid, ip: u64, sp: u64, value: i64) {
        let value = self.hide_interruption(tid, value);
        let Some(thread) = self.threads.get(tid) else { return };
        match std::mem::take(&mut thread.phase) {
            Phase::Leaving(AtExit::Observe(call, frame)) => {
                if is_interrupted(value) {
                    thread.phase = Phase::Interrupted { call, frame, patience: PATIENCE };
                } else {
                    return self.leave(tid, call, value);
                }
            }
            Phase::Leaving(AtExit::Restart(frame)) => {
                let interrupted = Self::interrupt(tid, frame.number);
                self.check(tid, interrupted);
            }
            Phase::Leaving(AtExit::Restore(frame, arguments, call)) => {
                let restored = Registers::load(tid).and_then(|mut registers| {
                    registers.set_call(frame.number)?;
                    registers.set_arguments(frame.abi, *arguments, true);
                    registers.store()
                });
                self.check(tid, restored);
                if let Some(call) = call {
                    self.handler.returned(&call, value);
                }
            }
            Phase::Leaving(AtExit::Poke { address, word }) => {
                let restored = control::poke(tid, address, word);
                // EIO: unmapped meanwhile, and nobody's any more.
                self.check(tid, restored.or_else(|errno| if errno == Errno::EIO { Ok(()) } else { Err(errno) }));
            }
            Phase::Leaving(AtExit::Judge(harmless)) => return self.on_harmless_exit(tid, &harmless, value),
            Phase::Interrupted { call, frame, .. }
                if (ip, sp) == (frame.ip, frame.sp) && value == -i64::from(Errno::EINTR as i32) =>
            {
                self.handler.returned(&call, value);
            }
            other => thread.phase = other,
        }
        self.resume(tid, 0);
    }
}

impl Tracer {
    /// At the exit of a call whose result is wanted.
    fn leave(&mut self, tid: Pid, call: InterceptedCall, result: i64) {
        let Some(pid) = self.threads.get(tid).map(|thread| thread.pid) else { return };
        let waiting = Arc::new(AtomicBool::new(true));
        let remotes = Arc::clone(&self.remotes);
        let mut tracee = Stopped { tid, pid, remotes, waiting: Arc::clone(&waiting), patience: Patience::AtOnce };
        if self.handler.leaving(&call, result, &tracee, Patience::AtOnce) {
            return self.resume(tid, 0);
        }
        let registers = control::registers(tid);
        let Some(registers) = self.check(tid, registers) else {
            return self.handler.abandoned(&call);
        };
        tracee.patience = Patience::MayBlock;
        self.set_phase(tid, Phase::Held { call, waiting });
        self.workers.submit(Job { call, tracee, registers, task: Task::Leave(result) });
    }
}

/// The interface's word for "int −1" in a register.
pub(crate) fn minus_one(abi: Abi) -> u64 {
    match abi {
        Abi::I386 => 0xFFFF_FFFF,
        Abi::X86_64 | Abi::Aarch64 => u64::MAX,
    }
}

//! Threads on which the handler may block, so that the tracer never does.
//!
//! The tracer sleeps in waitpid(2), which nothing but a change of a tracee or a signal ends. So whoever has
//! an answer for it sends it a signal, and again every millisecond until it has come for the answer: the
//! first may arrive between its look at the answers and its sleep.

use crate::tracee::Stopped;
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::look::Registers;
use sockstrace_backend::{Halted, Handler, InterceptedCall, Look, Outcome, Patience, Reply, Tracee};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use sockstrace_backend::reap::WAKE;

/// How long a worker without work stays.
const IDLE: Duration = Duration::from_secs(5);

/// How long a handler may take to notice that its tracee is gone, when all are.
const LAST_WAIT: Duration = Duration::from_secs(2);

const STACK: usize = 256 * 1024;

/// What takes time.
#[derive(Debug)]
pub struct Job {
    /// The call.
    pub call: InterceptedCall,
    /// Its thread.
    pub tracee: Stopped,
    /// The thread's registers: the tracer alone can get at them.
    pub registers: libc::user_regs_struct,
    /// What is to be done.
    pub task: Task,
}

/// What is to be done while the thread stays in its stop.
#[derive(Debug)]
pub enum Task {
    /// The call is to be judged.
    Judge,
    /// It was judged, and the thread is to be looked at before the answer is carried out.
    Look(Reply, Look),
    /// It has given this result, which the handler wants time to hear of.
    Leave(i64),
}

/// What came of it.
#[derive(Debug)]
pub struct Answer {
    /// The call.
    pub call: InterceptedCall,
    /// The handler's reply.
    pub reply: Reply,
}

/// The workers; they grow by demand.
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    handler: Arc<dyn Handler>,
    tracer: Pid,
    jobs: Mutex<Jobs>,
    work: Condvar,
    answers: Mutex<Vec<Answer>>,
    /// Whether there are answers: spares the tracer the lock.
    answered: AtomicBool,
    fetched: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    idle: usize,
    busy: usize,
    closed: bool,
}

impl Workers {
    /// Starts the first worker, which stays: where no thread can be made later, it does all the work. To
    /// be called on the tracer's thread.
    pub fn start(handler: Arc<dyn Handler>) -> Result<Self, Errno> {
        let shared = Arc::new(Shared {
            handler,
            tracer: nix::unistd::gettid(),
            jobs: Mutex::default(),
            work: Condvar::new(),
            answers: Mutex::default(),
            answered: AtomicBool::new(false),
            fetched: Condvar::new(),
        });
        spawn(&shared, true)?;
        Ok(Self { shared })
    }

    /// Hands a call over.
    pub fn submit(&self, job: Job) {
        let mut jobs = lock(&self.shared.jobs);
        jobs.waiting.push_back(job);
        if jobs.waiting.len() > jobs.idle {
            drop(jobs);
            // Where that fails (the limit of processes), the job waits for a worker that becomes free.
            let _: Result<(), Errno> = spawn(&self.shared, false);
        } else {
            self.shared.work.notify_one();
        }
    }

    /// The answers that have come.
    pub fn answers(&self) -> Vec<Answer> {
        if !self.shared.answered.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let answers = std::mem::take(&mut *lock(&self.shared.answers));
        self.shared.fetched.notify_all();
        answers
    }

    /// Ends the workers: no thread waits for them any more. Handlers see that their tracees are gone, and
    /// return; one that doesn't is not waited for long.
    pub fn finish(&self) {
        let mut jobs = lock(&self.shared.jobs);
        jobs.closed = true;
        self.shared.work.notify_all();
        let busy = self.shared.work.wait_timeout_while(jobs, LAST_WAIT, |jobs| jobs.busy > 0);
        drop(busy);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        lock(&self.shared.jobs).closed = true;
        self.shared.work.notify_all();
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(shared: &Arc<Shared>, stays: bool) -> Result<(), Errno> {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("judge".into()).stack_size(STACK);
    let spawned = thread.spawn(move || shared.work(stays));
    spawned.map(drop).map_err(|error| sockstrace_backend::filter::errno_of(&error))
}

impl Shared {
    fn work(&self, stays: bool) {
        while let Some(Job { call, tracee, registers, task }) = self.next_job(stays) {
            let outcome = match task {
                Task::Judge => self.handler.handle(&call, &tracee, Patience::MayBlock),
                Task::Look(reply, look) => Outcome::Look(reply, look),
                Task::Leave(result) => {
                    self.handler.leaving(&call, result, &tracee, Patience::MayBlock);
                    Outcome::Reply(Reply::Continue)
                }
            };
            let reply = match outcome {
                Outcome::Reply(reply) => reply,
                Outcome::Look(reply, look) => {
                    if tracee.is_waiting() {
                        let (tid, pid) = (tracee.tid, tracee.pid);
                        look.at(&Halted { tid, pid, abi: call.abi, registers: Registers::All(registers) });
                    }
                    reply
                }
                // Never an answer to this: whoever gives it nevertheless gets no way past us.
                Outcome::NeedsPatience => Reply::Fail(Errno::EPERM),
            };
            drop(tracee);
            self.deliver(Answer { call, reply });
            let mut jobs = lock(&self.jobs);
            jobs.busy -= 1;
            if jobs.closed && jobs.busy == 0 {
                self.work.notify_all();
            }
        }
    }

    fn next_job(&self, stays: bool) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if jobs.closed {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                jobs.busy += 1;
                return Some(job);
            }
            jobs.idle += 1;
            let (next, waited) = self.work.wait_timeout(jobs, IDLE).unwrap_or_else(PoisonError::into_inner);
            jobs = next;
            jobs.idle -= 1;
            if waited.timed_out() && jobs.waiting.is_empty() && !stays {
                return None;
            }
        }
    }

    /// Gives the tracer an answer, and returns when it has it.
    fn deliver(&self, answer: Answer) {
        let mut answers = lock(&self.answers);
        let id = answer.call.id;
        answers.push(answer);
        self.answered.store(true, Ordering::Release);
        while answers.iter().any(|answer| answer.call.id == id) && !lock(&self.jobs).closed {
            // SAFETY: takes integers only; the tracer's thread lives as long as this process judges, and
            // the signal's handler does nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.tracer.as_raw(), WAKE as i32) };
            let wait = self.fetched.wait_timeout(answers, Duration::from_millis(1));
            answers = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

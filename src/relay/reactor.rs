//! A few threads that wait for many descriptors: epoll(7), edge-triggered.
//!
//! What happens on a connection is an [`Actor`]: it owns its descriptors, is called when something changed
//! about one of them, and never blocks. Each stays on one thread, so that it needs no locks.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What changed about a descriptor.
pub type Events = EpollFlags;

/// Threads at most: one splices some GB/s.
const THREADS_AT_MOST: usize = 4;
const EVENTS_AT_ONCE: usize = 256;
const STACK_BYTES: usize = 256 << 10;

/// The event of the eventfd that wakes a thread for new actors.
const WAKE: u64 = u64::MAX;
/// The lower bits of an event's number are the descriptor's slot, the others the actor's.
const SLOT_BITS: u32 = 2;

/// How long without any progress the last bytes may take on their way, when PROGRAM has ended.
const LAST_PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection is waited for in which nothing is on its way.
const QUIET_PATIENCE: Duration = Duration::from_millis(500);

/// What is to become of an actor.
pub enum Next {
    /// It waits for its descriptors.
    Wait,
    /// It goes on when the others had their turn ([`Actor::resume`]).
    Again,
    /// Another takes its place. Descriptors that it watched and that still are open stay watched.
    Become(Box<dyn Actor>),
    /// It has ended.
    End,
}

/// One connection, or whatever else has descriptors to wait for.
pub trait Actor: Send {
    /// Called once, on its thread: to watch its descriptors ([`Place::watch`]).
    fn start(&mut self, place: &Place<'_>) -> Next;

    /// Something changed about the descriptor that is watched under `slot`.
    fn ready(&mut self, slot: u8, events: Events, place: &Place<'_>) -> Next;

    /// After [`Next::Again`].
    fn resume(&mut self, place: &Place<'_>) -> Next;

    /// What the program has sent and isn't delivered yet, when its end is waited for.
    fn unsettled(&self) -> Unsettled {
        Unsettled::Nothing
    }
}

/// What an actor still has to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsettled {
    /// Nothing: it can be dropped.
    Nothing,
    /// It hasn't seen the program's end of the stream.
    Open,
    /// Bytes are on their way.
    Bytes,
}

/// An actor's place in its thread.
pub struct Place<'a> {
    epoll: &'a Epoll,
    number: u64,
    moved: &'a AtomicU64,
}

impl Place<'_> {
    /// Tells [`Actor::ready`] whatever changes about `fd` from now on (edge-triggered, for reading, writing
    /// and urgent data), and what is already so. `slot` is 0 to 3. Closing ends it, as long as no duplicate
    /// is left anywhere: else call [`Place::unwatch`].
    pub fn watch(&self, slot: u8, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let all = Events::EPOLLIN | Events::EPOLLOUT | Events::EPOLLRDHUP | Events::EPOLLPRI | Events::EPOLLET;
        self.watch_for(slot, fd, all)
    }

    /// As [`Place::watch`], for other events; errors are always told.
    pub fn watch_for(&self, slot: u8, fd: BorrowedFd<'_>, events: Events) -> Result<(), Errno> {
        let data = (self.number << SLOT_BITS) | u64::from(slot & 3);
        self.epoll.add(fd, EpollEvent::new(events, data))
    }

    /// Ends [`Place::watch`].
    pub fn unwatch(&self, fd: BorrowedFd<'_>) {
        // ENOENT: it isn't watched.
        let _: Result<(), Errno> = self.epoll.delete(fd);
    }

    /// Notes that so many bytes have moved: who waits for the end sees that it goes on.
    pub fn moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The threads. They start with the first actor.
pub struct Reactor {
    threads: Mutex<Vec<Arc<Shared>>>,
    next: AtomicUsize,
}

struct Shared {
    epoll: Epoll,
    wake: EventFd,
    inbox: Mutex<Inbox>,
    moved: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    actors: Vec<Box<dyn Actor>>,
    /// Who wants to know how much is unsettled.
    asked: bool,
    answer: Option<(usize, Unsettled)>,
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Reactor {
    fn default() -> Self {
        Self::new()
    }
}

impl Reactor {
    /// Without threads yet.
    #[must_use]
    pub fn new() -> Self {
        Self { threads: Mutex::default(), next: AtomicUsize::new(0) }
    }

    /// Gives an actor to one of the threads.
    ///
    /// # Errors
    /// Where no thread can be had; the actor is dropped then.
    pub fn spawn(&self, actor: Box<dyn Actor>) -> Result<(), Errno> {
        let shared = self.thread()?;
        lock(&shared.inbox).actors.push(actor);
        shared.wake()
    }

    fn thread(&self) -> Result<Arc<Shared>, Errno> {
        // To find it out takes a dozen system calls (cgroups).
        static WANTED: LazyLock<usize> =
            LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from).min(THREADS_AT_MOST));
        let wanted = *WANTED;
        let mut threads = lock(&self.threads);
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % wanted;
        if turn >= threads.len() {
            match Shared::start() {
                Ok(thread) => threads.push(thread),
                Err(errno) if threads.is_empty() => return Err(errno),
                Err(_) => {}
            }
        }
        let thread = threads.get(turn).or(threads.first());
        thread.map(Arc::clone).ok_or(Errno::EAGAIN)
    }

    /// Waits until what programs that have ended had sent is delivered. Connections of which somebody outside
    /// of the tree holds the other end are not waited for long.
    pub fn settle(&self) {
        let threads = lock(&self.threads).clone();
        let (mut moved, mut since) = (0, Instant::now());
        loop {
            let answers: Vec<_> = threads.iter().filter_map(|thread| thread.ask()).collect();
            let worst = answers.iter().map(|(_, unsettled)| *unsettled).max().unwrap_or(Unsettled::Nothing);
            let patience = match worst {
                Unsettled::Nothing => return,
                Unsettled::Open => QUIET_PATIENCE,
                Unsettled::Bytes => LAST_PATIENCE,
            };
            let now = threads.iter().map(|thread| thread.moved.load(Ordering::Relaxed)).fold(0, u64::wrapping_add);
            if now != moved {
                (moved, since) = (now, Instant::now());
            }
            if since.elapsed() > patience {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Shared {
    fn start() -> Result<Arc<Self>, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(Events::EPOLLIN, WAKE))?;
        let shared = Arc::new(Self { epoll, wake, inbox: Mutex::default(), moved: AtomicU64::new(0) });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("relay".into()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || Worker { shared: own, actors: HashMap::new(), next: 0 }.run());
        spawned.map_err(|error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))?;
        Ok(shared)
    }

    fn wake(&self) -> Result<(), Errno> {
        match self.wake.write(1) {
            // It is awake.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// How many actors there are, and the worst of what they have to deliver.
    fn ask(&self) -> Option<(usize, Unsettled)> {
        let mut inbox = lock(&self.inbox);
        inbox.asked = true;
        inbox.answer = None;
        drop(inbox);
        self.wake().ok()?;
        // Actors don't block: the answer comes soon.
        for _ in 0..2000 {
            if let Some(answer) = lock(&self.inbox).answer {
                return Some(answer);
            }
            thread::sleep(Duration::from_micros(500));
        }
        None
    }
}

struct Worker {
    shared: Arc<Shared>,
    actors: HashMap<u64, Box<dyn Actor>>,
    next: u64,
}

impl Worker {
    fn run(&mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS_AT_ONCE];
        let mut again: VecDeque<u64> = VecDeque::new();
        loop {
            let timeout = if again.is_empty() { EpollTimeout::NONE } else { EpollTimeout::ZERO };
            let count = match self.shared.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                // A descriptor of our own that is no epoll any more: nothing can go on.
                Err(_) => return,
            };
            for event in events.iter().take(count) {
                if event.data() == WAKE {
                    self.take_inbox(&mut again);
                    continue;
                }
                let (number, slot) = (event.data() >> SLOT_BITS, (event.data() & 3) as u8);
                self.turn(number, &mut again, |actor, place| actor.ready(slot, event.events(), place));
            }
            for _ in 0..again.len() {
                let Some(number) = again.pop_front() else { break };
                self.turn(number, &mut again, |actor, place| actor.resume(place));
            }
        }
    }

    fn take_inbox(&mut self, again: &mut VecDeque<u64>) {
        // EAGAIN: somebody else's wake-up was read with the last one.
        let _: Result<u64, Errno> = self.shared.wake.read();
        let shared = Arc::clone(&self.shared);
        let (actors, asked) = {
            let mut inbox = lock(&shared.inbox);
            (std::mem::take(&mut inbox.actors), std::mem::take(&mut inbox.asked))
        };
        for actor in actors {
            let number = self.next;
            self.next = self.next.wrapping_add(1) & (u64::MAX >> (SLOT_BITS + 1));
            self.actors.insert(number, actor);
            self.turn(number, again, |actor, place| actor.start(place));
        }
        if asked {
            let worst = self.actors.values().map(|actor| actor.unsettled()).max().unwrap_or(Unsettled::Nothing);
            lock(&shared.inbox).answer = Some((self.actors.len(), worst));
        }
    }

    fn turn(
        &mut self,
        number: u64,
        again: &mut VecDeque<u64>,
        act: impl FnOnce(&mut dyn Actor, &Place<'_>) -> Next,
    ) {
        // An event of the same round, for an actor that has ended meanwhile.
        let Some(actor) = self.actors.get_mut(&number) else { return };
        let place = Place { epoll: &self.shared.epoll, number, moved: &self.shared.moved };
        let mut next = act(actor.as_mut(), &place);
        while let Next::Become(successor) = next {
            *actor = successor;
            next = actor.start(&place);
        }
        match next {
            Next::Again if !again.contains(&number) => again.push_back(number),
            Next::Again | Next::Wait | Next::Become(_) => {}
            Next::End => drop(self.actors.remove(&number)),
        }
    }
}

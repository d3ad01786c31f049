//! Functions, generic ones, closures, methods of traits and inlined ones.

unsafe extern "C" {
    fn write(fd: i32, bytes: *const u8, length: usize) -> isize;
    fn pause() -> i32;
}

#[inline(never)]
fn stop() {
    unsafe {
        write(1, b"ready\n".as_ptr(), 6);
        loop {
            pause();
        }
    }
}

mod shapes {
    pub trait Shape {
        fn draw(&self, depth: u32) -> u32;
    }

    pub struct Circle<T>(pub T);

    impl<T: Copy + Into<u32>> Shape for Circle<T> {
        #[inline(never)]
        fn draw(&self, depth: u32) -> u32 {
            if depth > 0 { self.draw(depth - 1) + 1 } else { self.hidden() + 1 }
        }
    }

    impl<T: Copy + Into<u32>> Circle<T> {
        #[inline(always)]
        fn hidden(&self) -> u32 {
            super::stop();
            self.0.into()
        }
    }
}

#[inline(never)]
fn through(shape: &dyn shapes::Shape) -> u32 {
    shape.draw(2) + 1
}

#[inline(never)]
fn generic<T, F: Fn(&T) -> u32>(values: &[T], function: F) -> u32 {
    let mut sum = 1;
    for value in values {
        sum += function(value);
    }
    sum
}

fn main() {
    let sum = generic(&[shapes::Circle(3_u8)], |shape| through(shape) + 1);
    println!("{sum}");
}

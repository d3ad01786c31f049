// Namespaces, templates, virtual calls, lambdas, and inlined ones of each.
#include "stop.h"
#include <functional>

namespace outer {
namespace {
struct Base {
	virtual ~Base() = default;
	virtual void run(int n) = 0;
};

template <typename T> struct Derived : Base {
	T value;
	NOINLINE void run(int n) override;
	INLINE void inlined(int n)
	{
		volatile int keep = n;
		auto lambda = [&]() NOINLINE {
			if (keep >= 0)
				stop();
			NO_TAIL;
		};
		lambda();
		NO_TAIL;
	}
};

template <typename T> void Derived<T>::run(int n)
{
	inlined(n);
	NO_TAIL;
}
} // namespace

NOINLINE void dispatch(Base &base)
{
	base.run(1);
	NO_TAIL;
}
} // namespace outer

int main()
{
	outer::Derived<long> derived;
	try {
		outer::dispatch(derived);
		NO_TAIL;
	} catch (int) {
	}
	return 0;
}

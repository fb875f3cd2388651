// Pictures are asked for when they come into sight: there may be hundreds.
const toDo = new WeakMap();
const sight = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      toDo.get(target)();
    }
  },
  { rootMargin: "300px" },
);

export function whenSeen(node, act) {
  toDo.set(node, act);
  sight.unobserve(node); // or it would not be told that it is in sight already
  sight.observe(node);
}

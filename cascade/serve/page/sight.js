// Runs work when a node comes into sight: there may be hundreds of pictures.

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
  sight.unobserve(node); // else the observer would not report a node that is in sight already
  sight.observe(node);
}

// A script that uses most of the language: closures, classes, generators, exceptions, regular expressions, JSON,
// sorting, maps, big integers, promises. `args[0]` is how much of it.
"use strict";
const size = Number(args[0] ?? 10);

class Shape {
  constructor(name) { this.name = name; }
  get area() { return 0; }
  toString() { return `${this.name} of ${this.area.toFixed(3)}`; }
}
class Circle extends Shape {
  constructor(radius) { super("circle"); this.radius = radius; }
  get area() { return 3.14159265 * this.radius ** 2; }
}
class Square extends Shape {
  #side;
  constructor(side) { super("square"); this.#side = side; }
  get area() { return this.#side * this.#side; }
}

function* primes(limit) {
  const crossed = new Uint8Array(limit + 1);
  for (let n = 2; n <= limit; n++) {
    if (crossed[n]) continue;
    yield n;
    for (let m = n * n; m <= limit; m += n) crossed[m] = 1;
  }
}

const shapes = Array.from({ length: size }, (_, i) => i % 2 ? new Square(i) : new Circle(i));
shapes.sort((a, b) => b.area - a.area);
print("largest", shapes[0], "smallest", shapes.at(-1));

const found = [...primes(size * 100)];
print("primes", found.length, found.reduce((sum, n) => sum + n, 0), found.at(-1));

let factorial = 1n;
for (let i = 1n; i <= BigInt(size); i++) factorial *= i;
print("factorial", factorial % 1000000007n, factorial.toString().length, "digits");

const text = "the quick brown fox jumps over the lazy dog and runs away from the slow cat ".repeat(size);
const counts = new Map();
for (const [word] of text.matchAll(/\b[a-z]{3,5}\b/g)) counts.set(word, (counts.get(word) ?? 0) + 1);
print("words", JSON.stringify([...counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))));

const memo = {};
const fibonacci = (n) => n < 2 ? n : memo[n] ??= fibonacci(n - 1) + fibonacci(n - 2);
const slow = (n) => n < 2 ? n : slow(n - 1) + slow(n - 2);
print("fibonacci", fibonacci(70), slow(8 + Math.min(14, Math.floor(Math.log2(size)))));

let caught = 0;
for (let i = 0; i < size * 5; i++) {
  try {
    if (i % 3 === 0) null.property;
    if (i % 3 === 1) throw new RangeError(`item ${i}`);
    JSON.parse("{broken");
  } catch (error) {
    caught += error instanceof TypeError ? 1 : error instanceof RangeError ? 100 : 10000;
  } finally {
    caught += 1000000;
  }
}
print("caught", caught);

const tree = (depth) => depth ? { left: tree(depth - 1), right: tree(depth - 1), depth } : null;
const round = JSON.parse(JSON.stringify(tree(Math.min(10, 2 + Math.floor(size / 10)))));
const weigh = (node) => node ? node.depth + weigh(node.left) + weigh(node.right) : 0;
print("tree", weigh(round));

const wait = (value) => Promise.resolve(value).then((v) => v * 2);
(async () => {
  let sum = 0;
  for (let i = 0; i < size; i++) sum += await wait(i);
  print("promises", sum);
})();
print("end of script");

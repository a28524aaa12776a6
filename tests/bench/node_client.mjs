// node_client.mjs URL COUNT CONCURRENCY body|json
// Prints how many body bytes came, or the sum of the decoded ids.
const [url, count, concurrency, mode] = process.argv.slice(2);
let left = Number(count);
let total = 0;

async function work() {
  while (left-- > 0) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`status ${response.status}`);
    if (mode === "json") {
      total += (await response.json()).id;
    } else {
      total += (await response.arrayBuffer()).byteLength;
    }
  }
}

await Promise.all(Array.from({ length: Number(concurrency) }, work));
console.log(total);

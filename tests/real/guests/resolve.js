// resolve.js NAME: by the C library, and by c-ares. resolve.js --many COUNT: all at once.
const dns = require('dns').promises;

async function main([name, count]) {
  if (name === '--many') {
    const numbers = [...Array(Number(count)).keys()];
    const wrong = (await Promise.all(numbers.map(async (n) => {
      const [ip] = await dns.resolve4(`n${n}.many.example`);
      return ip === `198.51.100.${n % 250}` ? [] : [`${n}: ${ip}`];
    }))).flat();
    console.log(wrong.length === 0 ? 'all right' : wrong);
    return;
  }
  console.log('lookup', (await dns.lookup(name, { family: 4 })).address);
  console.log('resolve4', await dns.resolve4(name));
}

main(process.argv.slice(2)).catch((error) => {
  console.log(error.code);
  process.exit(1);
});

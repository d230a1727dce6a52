'use strict'
// The server of ws_test.go. It is told what to do on standard input, one JSON object a line, and says what it saw on
// standard output: {"reply": n, ...} for the command with that number, {"event": ...} for the rest.
//
// Its clients send {"op": "subscribe" or "unsubscribe", "id": n, "topics": [...]} and get {"ack": n}; then, for each tick,
// {"topic": t, "n": number}, where every topic counts on whether somebody listens or not.

const { WebSocketServer } = require('ws')

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  perMessageDeflate: { threshold: 0 }
})
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n')
const numbers = new Map()
let opened = 0
let timer = null

server.on('listening', () => say({ event: 'listening', port: server.address().port }))

server.on('connection', (client) => {
  client.id = ++opened
  client.topics = new Set()
  say({ event: 'open', client: client.id, extensions: client.extensions })
  client.on('message', (data, binary) => {
    const { op, id, topics } = JSON.parse(data)
    for (const topic of topics) {
      if (op === 'subscribe') client.topics.add(topic)
      else client.topics.delete(topic)
    }
    client.send(JSON.stringify({ ack: id }))
  })
  client.on('pong', (payload) => say({ event: 'pong', client: client.id, text: payload.toString() }))
  client.on('close', (code, reason) => say({ event: 'closed', client: client.id, code, text: reason.toString() }))
  client.on('error', (err) => say({ event: 'error', client: client.id, text: err.message }))
})

function tick (topics, pad) {
  for (const topic of topics) {
    const n = (numbers.get(topic) || 0) + 1
    numbers.set(topic, n)
    const message = JSON.stringify({ topic, n, pad: 'x'.repeat(pad || 0) })
    for (const client of server.clients) {
      if (client.topics.has(topic)) client.send(message)
    }
  }
}

const commands = {
  tick: ({ topics, pad }) => tick(topics, pad),
  // One message in three frames, a ping between them.
  fragments ({ topics }) {
    for (const topic of topics) {
      const n = (numbers.get(topic) || 0) + 1
      numbers.set(topic, n)
      const message = JSON.stringify({ topic, n, pad: 'äöü'.repeat(1000) })
      const third = Math.ceil(message.length / 3)
      for (const client of server.clients) {
        if (!client.topics.has(topic)) continue
        client.send(message.slice(0, third), { fin: false, compress: false })
        client.ping('between')
        client.send(message.slice(third, 2 * third), { fin: false, compress: false })
        client.send(message.slice(2 * third), { fin: true, compress: false })
      }
    }
  },
  run ({ topics, ms }) { timer = setInterval(() => tick(topics), ms) },
  stop () { clearInterval(timer) },
  numbers: () => ({ numbers: Object.fromEntries(numbers) }),
  list: () => ({ topics: [...server.clients].filter((c) => c.readyState === c.OPEN).map((c) => [...c.topics]) }),
  ping: ({ text }) => server.clients.forEach((c) => c.ping(text)),
  close: ({ code, text }) => server.clients.forEach((c) => code ? c.close(code, text) : c.close()),
  terminate: () => server.clients.forEach((c) => c.terminate())
}

require('readline').createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line)
    say({ reply: command.number, ...commands[command.do](command) })
  })
  .on('close', () => process.exit(0))

// node scripts/lib/run-files.js RESULTS JOBS MOST SECONDS UNTIL FILE... -- STORY...   Runs compiled test files, JOBS of them at
// once, up to MOST while processors are idle, each by node itself: what it prints is TAP, judged with its exit code. A line per
// file as it ends. SECONDS is the limit of a file that sets itself none (test/patience.ts). A STORY comes after the others, and
// none begins after UNTIL seconds: those that are left out are named.
// A few files that failed beside others run once more, alone. What passes then does not fail the run.
// Appends to files in the folder RESULTS: `counts` (passed N, failed N), `failures` and `unsteady` (why, in words), `processes`.

import { spawn } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import { cpus, freemem } from 'node:os'
import { join } from 'node:path'
import { Parser } from 'tap-parser'
import { describeFailure, read } from './failures.js'

const [results, jobs, most, seconds, until, ...all] = process.argv.slice(2)
const files = all.filter((file) => file !== '--')
const stories = new Set(all.includes('--') ? all.slice(all.indexOf('--') + 1) : [])
const isLate = (file) => stories.has(file) && performance.now() > 1000 * Number(until)

/** More than these are no chance. */
const AGAIN_AT_MOST = 3
/** A file limits itself. One that says nothing for so long is stuck where its timers are not heard. */
const SILENCE_MS = Math.max(1_800_000, 2000 * Number(seconds))
const STDERR_KEPT = 16_384

/** One more file begins where this share of all processors' time was idle for so long, and this memory is free. */
const IDLE_SHARE = 0.15
const IDLE_LOOK_MS = 500
const MEMORY = 1.5 * 2 ** 30

const note = (name, text) => appendFileSync(join(results, name), `${text}\n`)

function run(file) {
  return new Promise((resolve) => {
    const tally = { passed: 0, failed: 0, failures: [] }
    const name = file.replace(/^dist\//, '')
    const began = performance.now()
    const parser = new Parser({ strict: false })
    read(parser, tally, [name])
    const child = spawn(process.execPath, ['--enable-source-maps', '--max-semi-space-size=64', file], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TAP_TIMEOUT: seconds },
    })
    if (child.pid !== undefined) note('processes', child.pid)
    let said = ''
    let silent
    const heard = () => {
      clearTimeout(silent)
      silent = setTimeout(() => child.kill('SIGKILL'), SILENCE_MS)
    }
    heard()
    child.stdout.on('data', heard).pipe(parser)
    child.stderr.on('data', (chunk) => {
      said = (said + chunk).slice(-STDERR_KEPT)
    })
    const tap = new Promise((complete) => parser.once('complete', complete))
    const end = new Promise((ended) =>
      child.once('close', (...how) => ended(how)).once('error', (error) => ended([error])),
    )
    Promise.all([end, tap]).then(([[code, signal], { ok, count }]) => {
      clearTimeout(silent)
      const fails = (message) => {
        tally.failed++
        tally.failures.push({ trail: [name], name: message, diagnostic: said === '' ? {} : { stderr: said } })
      }
      if (tally.failed === 0 && code !== 0) fails(`ended with ${signal ?? code}`)
      else if (count === 0) fails('has no tests')
      else if (tally.failed === 0 && !ok) fails('its TAP is not whole')
      const took = ((performance.now() - began) / 1000).toFixed(1)
      console.log(`${tally.failed === 0 ? 'passed' : 'FAILED'}  ${name}  ${took} s`)
      // At once: a run that is ended for its time would say nothing else of it.
      if (tally.failed > 0) console.log(why([tally]))
      if (tally.failed > 0 && said !== '') process.stderr.write(`${said}\n`)
      resolve({ file, ...tally })
    })
  })
}

/** Calls `isIdle` whenever processors were. What waits for a disk is not idle here. */
function watchIdle(isIdle) {
  const times = () => {
    const all = cpus().map(({ times }) => [times.idle, Object.values(times).reduce((a, b) => a + b, 0)])
    return [0, 1].map((at) => all.reduce((sum, one) => sum + one[at], 0))
  }
  let [idle, total] = times()
  return setInterval(() => {
    const [idleNow, totalNow] = times()
    if (idleNow - idle > IDLE_SHARE * (totalNow - total) && freemem() > MEMORY) isIdle()
    ;[idle, total] = [idleNow, totalNow]
  }, IDLE_LOOK_MS)
}

/** Runs them in their order, `atOnce` at once, up to `most` where that leaves processors idle. */
async function runAll(all, atOnce, most = atOnce) {
  const left = [...all]
  const ran = []
  let running = 0
  await new Promise((resolve) => {
    const begin = () => {
      if (left.length > 0 && isLate(left[0])) leftOut.push(...left.splice(0))
      if (left.length === 0) return running === 0 ? resolve() : undefined
      running++
      run(left.shift()).then((one) => {
        ran.push(one)
        running--
        if (running < atOnce || left.length === 0) begin()
      })
    }
    const watch = watchIdle(() => {
      if (running < most && left.length > 0) begin()
    })
    watch.unref()
    for (let i = 0; i < atOnce; i++) begin()
  })
  return ran
}

const why = (ran) => ran.flatMap(({ failures }) => failures.map(describeFailure)).join('\n')
const isBad = ({ failed }) => failed > 0
const tell = (ran) => {
  for (const { passed, failed } of ran) note('counts', `passed ${passed}\nfailed ${failed}`)
  if (ran.some(isBad)) note('failures', why(ran))
}

const leftOut = []
const ran = await runAll(files, Number(jobs), Number(most))
if (leftOut.length > 0) {
  const names = leftOut.map((file) => file.replace(/^dist\/test\/|\.test\.js$/g, '')).join(' ')
  console.log(`Left out, for there was no time: scripts/test ${names}`)
}
const bad = ran.filter(isBad)
if (bad.length === 0 || bad.length > AGAIN_AT_MOST) tell(ran)
else {
  tell(ran.filter((one) => !isBad(one)))
  console.log(`Again, alone: ${bad.map(({ file }) => file.replace(/^dist\//, '')).join(' ')}`)
  const again = bad.map(({ file }) => file)
  stories.clear()
  const alone = await runAll(again, 1)
  tell(alone)
  const failedTwice = new Set(alone.filter(isBad).map(({ file }) => file))
  const unsteady = bad.filter(({ file }) => !failedTwice.has(file))
  if (unsteady.length > 0) note('unsteady', why(unsteady))
}
// scripts/test takes it that the runner itself has failed where this is missing.
note('counts', 'ended 1')

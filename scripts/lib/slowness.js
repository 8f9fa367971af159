// Prints how slow this machine is, busy as it may be: 3 where nothing else runs, up to 24. Tests that wait for
// something multiply their limits by it (test/patience.ts). Three times what is measured, because others' work comes and
// goes.
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { isMainThread, Worker } from 'node:worker_threads'

/** Milliseconds on two quiet cores of a small cloud machine. */
const QUIET = { compute: 350, write: 50 }
const ROUNDS = 120_000_000
const WRITES = 16
const CHUNK = Buffer.alloc(1024 * 1024, 7)

function compute() {
  let x = 1
  for (let i = 0; i < ROUNDS; i++) x = (Math.imul(x, 1103515245) + 12345) | 0
  return x
}

async function computeMs() {
  const began = performance.now()
  const workers = Array.from({ length: availableParallelism() }, () => new Worker(new URL(import.meta.url)))
  await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('exit', resolve))))
  return performance.now() - began
}

function writeMs() {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-slowness-'))
  try {
    const began = performance.now()
    const file = openSync(join(directory, 'file'), 'w')
    for (let i = 0; i < WRITES; i++) writeSync(file, CHUNK)
    fsyncSync(file)
    closeSync(file)
    return performance.now() - began
  } finally {
    rmSync(directory, { recursive: true })
  }
}

if (isMainThread) {
  const factor = Math.max(1, (await computeMs()) / QUIET.compute, writeMs() / QUIET.write)
  console.log(Math.min(24, 3 * factor).toFixed(1))
} else compute()

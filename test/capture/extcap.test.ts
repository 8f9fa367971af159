// Wireshark's extcap: tshark finds the networks and ports in its list of interfaces, and captures from them.

import { execFile } from 'node:child_process'
import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { run, until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { tshark } from './capturing.js'

t.setTimeout(fileLimit(120_000))

const snapswitch = join(repositoryRoot(), 'bin', 'snapswitch')

t.test('extcap', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host', { address: '10.69.0.1' })
  await world.endpoint('two', 'host', { address: '10.69.0.2' })
  const ports = { one: { device: 'one', vm: 'alpha' }, two: { device: 'two' } }
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  const folder = join(world.directory, 'extcap')
  mkdirSync(folder)
  const script = join(folder, 'snapswitch')
  copyFileSync(join(repositoryRoot(), 'packaging', 'wireshark', 'snapswitch'), script)
  const folders = await run('tshark', ['-G', 'folders'])
  const theirs = /^Extcap path:\s+(\S+)$/m.exec(folders)?.[1]
  // For root no variable names another folder: these programs find ours in the place of theirs.
  const enter = ['-m', 'sh', '-c', `mount --bind ${folder} ${theirs} && exec "$0" "$@"`]
  const PATH = `${join(repositoryRoot(), 'bin')}:${process.env.PATH}`
  const env = { ...process.env, PATH, SNAPSWITCH_SOCKET: world.socket('host') }
  const exec = (program: string, ...args: string[]) =>
    promisify(execFile)('unshare', [...enter, program, ...args], { env, timeout: patience(60_000) })

  await t.test('networks and ports are in the list of interfaces', async (t) => {
    const { stdout } = await exec('tshark', '-D')
    t.match(stdout, /^\d+\. snapswitch:lab0 \(network lab0 of the switch host\)$/m)
    t.match(stdout, /^\d+\. snapswitch:lab0:one \(port one of network lab0, machine alpha\)$/m)
    t.match(stdout, /^\d+\. snapswitch:lab0:two /m)
  })

  await t.test('link type and settings', async (t) => {
    t.match((await exec('tshark', '-i', 'snapswitch:lab0', '-L')).stdout, /EN10MB/)
    for (const question of ['--extcap-config', '--extcap-dlts']) {
      const args = ['--extcap-interface=snapswitch:lab0', question]
      const { stdout } = await exec(snapswitch, 'extcap', ...args)
      t.equal((await exec(script, ...args)).stdout, stdout, 'the script answers as the command')
      t.match(stdout, /^(arg \{number=0\}\{call=--filter\}|dlt \{number=1\})/)
    }
  })

  await t.test('what is wrong with a capture filter', async (t) => {
    const verify = (filter: string) =>
      exec(script, '--extcap-interface=snapswitch:lab0', '--extcap-version=4.0', `--extcap-capture-filter=${filter}`)
    t.equal((await verify('ip and port one')).stdout, '')
    t.match((await verify('ip and ( port')).stdout, /after `port` comes a name/)
  })

  await t.test('a capture at one port, until there is enough', async (t) => {
    const path = join(world.directory, 'extcap.pcapng')
    const args = ['-i', 'snapswitch:lab0:one', '-o', 'extcap.snapswitch_lab0_one.filter:ip', '-c', '4', '-w', path]
    const capturing = exec('tshark', ...args)
    const over = capturing.then(() => true)
    await until('four packets', 60_000, async () =>
      (await Promise.race([over, world.pings('two', '10.69.0.1').then(() => false)])) ? true : undefined,
    )
    await capturing
    const packets = await tshark(path)
    t.equal(packets.length, 4)
    t.ok(packets.every(({ port, protocols }) => port === 'one' && protocols.includes('icmp')))
    t.match(packets[0], { direction: 'out', comment: 'delivered, no color' })
    const running = () => daemon.client.captures({ deadlineMs: patience(5000) })
    await until('the end', 5000, async () => ((await running()).length === 0 ? true : undefined))
  })

  await t.test('without a switch there is nothing to list, and no error', async (t) => {
    await daemon.stop()
    const { stdout } = await exec('tshark', '-D')
    t.notMatch(stdout, /snapswitch/)
  })
})

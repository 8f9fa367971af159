// What command lines tell of machines. The lines are QEMU's and libvirt's own, as they were started.

import t from 'tap'
import { recognize } from '../../src/hypervisor/drivers.js'
import type { HolderProcess } from '../../src/hypervisor/holder.js'
import { parseUnixSockets } from '../../src/hypervisor/shared/holder.js'
import { classify } from '../../switch/discovery/classify.js'

interface Sockets {
  readonly [name: string]: 'free' | 'busy'
}

function holder(line: string, sockets: Sockets = {}, binary = 'qemu-system-x86_64'): HolderProcess {
  return {
    pid: 4711,
    startTicks: '1',
    program: binary.slice(0, 15),
    binary,
    argv: [`/usr/bin/${binary}`, ...line.split(' ').filter((word) => word !== '')],
    uid: 0,
    socketAt: (name) => (name in sockets ? { here: `/here/${name}`, busy: sockets[name] === 'busy' } : null),
    socketBehind: (descriptor) => (descriptor === 7 ? 'passed' : null),
  }
}

const specs = (line: string, sockets: Sockets) => recognize(holder(line, sockets))?.specs

t.test('QMP sockets of a plain QEMU', async (t) => {
  const free = { a: 'free', b: 'free', passed: 'free' } as const
  const a = [{ qmp: '/here/a' }]
  t.same(specs('-qmp unix:a,server=on,wait=off', free), a)
  t.same(specs('-qmp unix:a,server,nowait', free), a)
  t.same(specs('-qmp-pretty unix:a,server', free), a)
  t.same(specs('--qmp unix:a,server=on', free), a)
  t.same(specs('-chardev socket,id=m,path=a,server=on,wait=off -mon chardev=m,mode=control', free), a)
  t.same(specs('-mon m,mode=control,pretty=on -chardev socket,path=a,id=m,server', free), a)
  t.same(specs('-chardev socket,id=m,path=a,server=on -qmp chardev:m', free), a)
  t.same(specs('-chardev socket,id=m,fd=7,server=on -mon chardev=m,mode=control', free), [{ qmp: '/here/passed' }])
  t.same(specs('-qmp unix:a,server -qmp unix:b,server', { a: 'busy', b: 'free' }), [{ qmp: '/here/b' }])
  t.same(specs('-qmp unix:a,server -qmp unix:b,server', free), [...a, { qmp: '/here/b' }])
  for (const none of [
    '-monitor unix:a,server',
    '-qmp unix:a',
    '-qmp unix:a,server=off',
    '-qmp tcp:localhost:4444,server',
    '-qmp stdio',
    '-chardev socket,id=m,path=a,server=on -mon chardev=m',
    '-chardev socket,id=m,path=a,server=on,abstract=on -mon chardev=m,mode=control',
    '-chardev socket,id=x,path=a,server=on -mon chardev=m,mode=control',
    '-readconfig file',
  ]) {
    const found = recognize(holder(none, free))
    t.same(found?.specs, [], none)
    t.equal(found?.problem?.code, 'MACHINE_UNSUPPORTED', none)
  }
  const busy = recognize(holder('-name web -qmp unix:a,server', { a: 'busy' }))
  t.match(busy, { specs: [], problem: { code: 'HYPERVISOR_UNREACHABLE', message: /another program is connected/ } })
  t.match(recognize(holder('-name web -qmp unix:a,server'))?.problem?.message, /nothing leads to its QMP socket a/)
})

t.test('names', async (t) => {
  const named = (line: string) => {
    const found = recognize(holder(line))
    return [found?.title, found?.identity]
  }
  t.same(named('-name web'), ['web', null])
  t.same(named('-name guest=web,debug-threads=on'), ['web', null])
  t.same(named('-name web,process=other'), ['web', null])
  t.same(named('-name a,,b'), ['a,b', null])
  t.same(named('-name debug-threads=on'), [null, null])
  t.same(named('-m 64'), [null, null])
  const uuid = '6F0E55A8-0BD9-4E53-9B6C-7E0D1C2A1F00'
  t.same(named(`-uuid ${uuid}`), [uuid, `uuid:${uuid.toLowerCase()}`])
})

t.test('domains of libvirt', async (t) => {
  const line =
    '-name guest=web,debug-threads=on -S -object {"qom-type":"secret","id":"masterKey0"} ' +
    '-uuid 6f0e55a8-0bd9-4e53-9b6c-7e0d1c2a1f00 -chardev socket,id=charmonitor,fd=27,server=on,wait=off ' +
    '-mon chardev=charmonitor,id=monitor,mode=control -netdev tap,fd=29,id=hostnet0'
  t.match(recognize(holder(line)), {
    kind: 'libvirt',
    title: 'web',
    identity: 'libvirt:6f0e55a8-0bd9-4e53-9b6c-7e0d1c2a1f00',
    specs: [{ libvirt: { domain: 'web' } }],
    problem: null,
  })
  // Whoever adds a socket of his own to a domain's command line: it is libvirt's machine all the same.
  t.equal(recognize(holder(`${line} -qmp unix:a,server`, { a: 'free' }))?.kind, 'libvirt')
})

t.test('processes that are no machine of a driver’s', async (t) => {
  const kindOf = (binary: string) => classify(holder('', {}, binary), 1).kind
  for (const binary of ['qemu-system-aarch64', 'qemu-kvm', 'kvm']) t.equal(kindOf(binary), 'recognized', binary)
  for (const binary of ['libvirtd', 'virtqemud', 'qemu-bridge-helper']) t.equal(kindOf(binary), 'pending', binary)
  t.equal(classify(holder('', {}, 'node'), 4711).kind, 'pending', 'this daemon, for a machine that it loads')
  t.match(classify(holder('', {}, 'firecracker'), 1), {
    kind: 'foreign',
    problem: { message: /Firecracker .*process 4711/ },
  })
  t.match(classify(holder('', {}, 'cloud-hypervisor-static'), 1), { title: 'Cloud Hypervisor' })
  t.match(classify(holder('', {}, 'VBoxHeadless'), 1), { title: 'VirtualBox' })
  t.match(classify(holder('', {}, 'openvpn'), 1), { kind: 'foreign', title: null, problem: { message: /openvpn/ } })
})

t.test('/proc/net/unix', async (t) => {
  const text = `Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/a b.sock
0000000000000000: 00000003 00000000 00000000 0001 03 1235 /run/a b.sock
0000000000000000: 00000003 00000000 00000000 0001 03 1236
0000000000000000: 00000002 00000000 00010000 0001 01 1237 @abstract
`
  t.same(parseUnixSockets(text), [
    { inode: '1234', listens: true, name: '/run/a b.sock' },
    { inode: '1235', listens: false, name: '/run/a b.sock' },
    { inode: '1237', listens: true, name: '@abstract' },
  ])
})

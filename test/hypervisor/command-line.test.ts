// Taking QEMU command lines apart, and putting them together for a machine's next incarnation.

import { execFile, execFileSync } from 'node:child_process'
import t from 'tap'
import { commandLineFor } from '../../src/hypervisor/qemu/command-line.js'
import { externalFiles } from '../../src/hypervisor/qemu/files.js'
import { withMachineType } from '../../src/hypervisor/qemu/machine-type.js'
import { listNics, parseInfoNetwork, tapArguments } from '../../src/hypervisor/qemu/nics.js'
import { checkCommandLine } from '../../src/hypervisor/qemu/refusals.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'
import { qemuBinary } from '../../src/hypervisor/shared/probe.js'
import { findDriveArguments, findNode } from '../../src/hypervisor/shared/qemu-disks.js'
import { joinArguments, OptionValue, splitArguments } from '../../src/hypervisor/shared/qemu-options.js'
import { stateDetail } from '../../src/hypervisor/shared/qemu-state.js'
import { protectedRanges } from '../../src/hypervisor/shared/write-protection.js'
import fc from '../property.js'

const words = (line: string) => line.split(' ')

t.test('arguments', (t) => {
  const argv = words('qemu -S -m 64 --nographic disk.img -s -append root=/dev/vda -snapshot -name')
  t.same(
    splitArguments(argv).map(({ option, value }) => [option, value]),
    [
      ['S', null],
      ['m', '64'],
      ['nographic', null],
      ['', 'disk.img'],
      ['s', null],
      ['append', 'root=/dev/vda'],
      ['snapshot', null],
      ['name', null],
    ],
  )
  for (const { value, index } of splitArguments(argv)) if (value !== null) t.equal(argv[index], value)
  const option = fc.constantFrom('S', 'm', 'drive', 'device', 'nographic', 'name', 'append')
  const value = fc.string().filter((text) => !text.startsWith('-'))
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(fc.tuple(option, value)), (pairs) => {
        const wanted = pairs.map(([name, text], index) => ({
          option: name,
          value: name === 'S' || name === 'nographic' ? null : text,
          index,
        }))
        const again = splitArguments(joinArguments('qemu', wanted))
        return (
          JSON.stringify(again.map((a) => [a.option, a.value])) ===
          JSON.stringify(wanted.map((a) => [a.option, a.value]))
        )
      }),
    ),
  )
  t.end()
})

t.test('option values', (t) => {
  const value = new OptionValue('tap,id=net0,ifname=a,,b,script=no,vhost', 'type')
  t.same(
    ['type', 'id', 'ifname', 'vhost', 'x'].map((key) => value.get(key)),
    ['tap', 'net0', 'a,b', 'on', null],
  )
  value.set('ifname', 'c,d')
  value.remove('script')
  t.equal(value.toString(), 'tap,id=net0,ifname=c,,d,vhost')
  const json = new OptionValue('{"type":"tap","id":"net0","queues":2,"file":{"filename":"x"},"on":true}', 'type')
  t.same([json.get('type'), json.get('queues'), json.get('file.filename'), json.get('on')], ['tap', '2', 'x', 'on'])
  json.set('file.filename', 'y')
  json.remove('queues')
  t.same(JSON.parse(json.toString()), { type: 'tap', id: 'net0', file: { filename: 'y' }, on: true })
  t.equal(new OptionValue('{broken', null).get('x'), null)
  for (const [text, outcome] of [
    ['{"a":1}', '{"a":2,"b":true,"c":"no"}'],
    ['a=1', 'a=2,b=on,c=no'],
  ] as const) {
    const typed = new OptionValue(text, null)
    typed.set('a', 2)
    typed.set('b', true)
    typed.set('c', 'no')
    t.equal(typed.toString(), outcome)
  }
  const key = fc.stringMatching(/^[a-z][a-z.-]{0,6}[a-z]$/)
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(fc.tuple(key, fc.string({ minLength: 1 })), { minLength: 1 }), (pairs) => {
        const text = pairs.map(([name, word]) => `${name}=${word.replaceAll(',', ',,')}`).join(',')
        const parsed = new OptionValue(text, null)
        const last = new Map(pairs)
        return parsed.toString() === text && [...last].every(([name, word]) => parsed.get(name) === word)
      }),
    ),
  )
  t.end()
})

t.test('taps in all their notations', (t) => {
  const argv = [
    'qemu',
    ...words('-netdev tap,id=n0,ifname=tap0,script=no -device virtio-net-pci,netdev=n0,mac=52:54:00:AA:00:01'),
    ...words('-nic tap,ifname=tap1,mac=52:54:00:aa:00:02,model=e1000 -nic user -netdev user,id=n9'),
    ...words(
      '-netdev {"type":"tap","id":"n3","fds":"10:11","vhost":true} -device {"driver":"virtio-net-pci","netdev":"n3"}',
    ),
    ...words('-netdev bridge,id=n4,br=br0,helper=/x -device e1000,netdev=n4,mac=52:54:00:aa:00:05'),
  ]
  t.same(
    tapArguments(argv).map(({ ifname, fd, netdev, mac, vhost }) => [ifname, fd, netdev, mac, vhost]),
    [
      ['tap0', null, 'n0', '52:54:00:aa:00:01', false],
      ['tap1', null, null, '52:54:00:aa:00:02', false],
      [null, 10, 'n3', null, true],
      [null, null, 'n4', '52:54:00:aa:00:05', false],
    ],
  )
  t.same(
    tapArguments(words('qemu -net nic,macaddr=52:54:00:aa:00:09 -net tap,ifname=old0')).map(({ ifname, mac }) => [
      ifname,
      mac,
    ]),
    [['old0', '52:54:00:aa:00:09']],
  )
  t.end()
})

t.test('info network of whoever is no QEMU', (t) => {
  const blanks = ' '.repeat(1 << 18)
  const tap = 'net0: index=0,type=tap,ifname=tap0'
  t.same(parseInfoNetwork(`${blanks}\n\t${blanks}x\r\n${blanks}\\`), [], 'is read in the time that its length takes')
  t.match(parseInfoNetwork(`${blanks}\\${blanks}hub0port1: ${tap}`), [{ netdev: 'net0', ifname: 'tap0' }])
  t.throws(() => parseInfoNetwork(' '.repeat((1 << 20) + 1)), { code: 'HYPERVISOR_PROTOCOL' })
  t.throws(() => parseInfoNetwork(`${tap}\n`.repeat(5000)), { code: 'HYPERVISOR_PROTOCOL' })
  t.equal(parseInfoNetwork(`${tap}\n`.repeat(4095)).length, 4095)
  t.end()
})

t.test('info network', (t) => {
  const clients = parseInfoNetwork(
    [
      'virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56',
      ' \\ net0: index=0,type=tap,ifname=tap0,script=no,downscript=no',
      'e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:57',
      ' \\ #net123: index=0,type=tap,fd=12',
      'hub 0',
      ' \\ hub0port1: tap.1: index=0,type=tap,ifname=tap2,script=no',
      'lonely: index=0,type=user,net=10.0.2.0,restrict=off',
      '',
    ].join('\r\n'),
  )
  t.same(
    clients.map(({ netdev, type, ifname, fd, mac }) => [netdev, type, ifname, fd, mac]),
    [
      ['net0', 'tap', 'tap0', null, '52:54:00:12:34:56'],
      ['#net123', 'tap', null, 12, '52:54:00:12:34:57'],
      ['tap.1', 'tap', 'tap2', null, null],
      ['lonely', 'user', null, null, null],
    ],
  )
  const argv = words('qemu -nic tap,fd=12 -netdev tap,id=net0,ifname=tap0')
  t.same(
    listNics(argv, clients, (fd) => `behind${fd}`),
    {
      nics: [
        { device: 'behind12', mac: '52:54:00:12:34:57' },
        { device: 'tap0', mac: '52:54:00:12:34:56' },
        { device: 'tap2', mac: null },
      ],
      added: ['tap2'],
    },
  )
  t.end()
})

const definition = (argv: string[], drives: QemuDefinition['drives'] = []): QemuDefinition => ({
  kind: 'qemu',
  name: 'vm0',
  argv,
  memoryBytes: 1,
  nics: [],
  hypervisorVersion: '7.2.0',
  drives,
})

const next = (over: Partial<Parameters<typeof commandLineFor>[1]> = {}) => ({
  taps: [],
  disks: [],
  qmp: '/run/new/qmp.sock',
  directory: '/run/new',
  exists: (directory: string) => !directory.startsWith('/gone'),
  ...over,
})

t.test('the next command line: what belongs to one incarnation is replaced', (t) => {
  const argv = words(
    'qemu -S -daemonize -pidfile /x -incoming tcp:0:1 -loadvm a -qmp unix:/old,server=on -m 64 ' +
      '-chardev socket,id=mon,path=/old2,server=on -mon chardev=mon,mode=control -chardev socket,id=c,path=/gone/c.sock ' +
      '-serial file:/gone/serial.log -serial unix:/kept/s.sock,server=on -monitor unix:/gone/m,server=on ' +
      '-vnc unix:/gone/vnc,password=on -spice unix=on,addr=/gone/spice -vnc unix:/kept/vnc ' +
      '-nic tap,ifname=a,script=/etc/up -nic tap,fd=7,vhost=off -nic user',
  )
  const edited = commandLineFor(definition(argv), next({ taps: ['t0', 't1'] }))
  t.same(
    edited,
    words(
      'qemu -m 64 -chardev socket,id=c,path=/run/new/c.sock ' +
        '-chardev file,id=snapswitch-serial-20,path=/run/new/serial.log,append=on -serial chardev:snapswitch-serial-20 ' +
        '-serial unix:/kept/s.sock,server=on -monitor unix:/run/new/m,server=on ' +
        '-vnc unix:/run/new/vnc,password=on -spice unix=on,addr=/run/new/spice -vnc unix:/kept/vnc ' +
        '-nic tap,ifname=t0,script=no,downscript=no -nic tap,vhost=off,ifname=t1,script=no,downscript=no -nic user ' +
        '-qmp unix:/run/new/qmp.sock,server=on,wait=off -S -incoming defer',
    ),
  )
  t.same(
    commandLineFor(definition(edited), next({ taps: ['t0', 't1'] })),
    edited,
    'the same again from its own outcome',
  )
  t.throws(() => commandLineFor(definition(argv), next({ taps: ['t0'] })), { code: 'MACHINE_UNSUPPORTED' })
  t.end()
})

t.test('the next command line: a window', (t) => {
  const shown = (line: string, window = false) =>
    commandLineFor({ ...definition(words(line)), ...(window && { window }) }, next())
      .slice(1, -5)
      .join(' ')
  const onSocket = '-display none -vnc unix:/run/new/vnc.sock'
  t.equal(shown('qemu -m 64'), '-m 64')
  t.equal(shown('qemu -m 64', true), `-m 64 ${onSocket}`, 'QEMU has opened one by itself')
  for (const display of ['-display gtk,gl=off', '-display sdl', '-sdl', '-curses', '-display dbus,p2p=on'])
    t.equal(shown(`qemu ${display} -m 64`), `-m 64 ${onSocket}`, display)
  t.equal(shown('qemu -display gtk -vnc :1'), '-vnc :1 -display none', 'it can be seen all the same')
  for (const display of ['-display none', '-nographic', '-display egl-headless', '-vnc :1', '-spice port=5900'])
    t.equal(shown(`qemu ${display} -m 64`), `${display} -m 64`, display)
  const tried = commandLineFor(definition(words('qemu -display gtk')), next({ rehearsal: true })).join(' ')
  t.notMatch(tried, /gtk|vnc/, 'a rehearsal shows nothing')
  t.end()
})

t.test('a machine’s type is named with its version', (t) => {
  const typed = (line: string) => withMachineType(words(line), 'pc-q35-7.2-machine').join(' ')
  t.equal(typed('qemu -m 64'), 'qemu -machine pc-q35-7.2 -m 64')
  t.equal(typed('qemu -M q35 -m 64'), 'qemu -M pc-q35-7.2 -m 64')
  t.equal(typed('qemu -machine q35,accel=tcg -m 64'), 'qemu -machine pc-q35-7.2,accel=tcg -m 64')
  t.equal(typed('qemu -machine accel=tcg,type=q35'), 'qemu -machine accel=tcg,type=pc-q35-7.2')
  t.equal(typed('qemu -machine accel=tcg'), 'qemu -machine pc-q35-7.2 -machine accel=tcg')
  t.equal(typed('qemu -M pc -machine q35'), 'qemu -M pc -machine pc-q35-7.2', 'the last one counts')
  t.equal(typed('qemu -machine {"type":"q35"}'), 'qemu -machine {"type":"pc-q35-7.2"}')
  t.equal(typed(typed('qemu -M q35')), typed('qemu -M q35'))
  t.end()
})

const chain = [
  { file: '/new/a,b.qcow2', format: 'qcow2' },
  { file: '/new/base.qcow2', format: 'qcow2', dataFile: '/new/base.data' },
] as const
const disks = [{ name: 'd', overlay: '/run/new/d.qcow2', backing: chain }]
const layer = { 'read-only': true, discard: 'unmap' }
const file = (filename: string, more: object = {}) => ({ driver: 'file', filename, ...more })
const layers = [
  {
    ...{ driver: 'qcow2', 'node-name': 'snapswitch0d0-1', ...layer, file: file('/new/base.qcow2') },
    'data-file': file('/new/base.data'),
    backing: null,
  },
  {
    driver: 'qcow2',
    'node-name': 'snapswitch0d0-0',
    ...layer,
    file: file('/new/a,b.qcow2'),
    backing: 'snapswitch0d0-1',
  },
]

t.test('the next command line: taps in JSON', (t) => {
  const argv = ['qemu', '-netdev', '{"type":"tap","id":"n","fds":"10:11","vhost":true}', '-nic', 'tap,fds=10:11']
  const [, netdev, , nic] = commandLineFor(definition(argv), next({ taps: ['t0', 't1'] })).slice(1)
  const named = { ifname: 't0', script: 'no', downscript: 'no', queues: 2 }
  t.strictSame(JSON.parse(netdev!), { type: 'tap', id: 'n', vhost: true, ...named })
  t.equal(nic, 'tap,ifname=t1,script=no,downscript=no,queues=2')
  t.end()
})

t.test('the next command line: disks', (t) => {
  const edit = (argv: string[], argument: number, direct = false) => {
    const edited = commandLineFor(definition(argv, [{ name: 'd', argument }]), next({ disks })).slice(1, -5)
    t.same([edited[0], edited[2]], ['-blockdev', '-blockdev'])
    const expected = layers.map((tree) => ({ ...tree, ...(direct && { cache: { direct } }) }))
    t.same(
      [edited[1]!, edited[3]!].map((word) => JSON.parse(word)),
      expected,
      'a node for each layer, bottom first',
    )
    return edited.slice(4)
  }
  const overlay = 'file=/run/new/d.qcow2,format=qcow2,backing=snapswitch0d0-0'
  t.same(edit(['qemu', '-drive', 'file=/old,if=virtio,format=raw,id=d,cache=none,backing.driver=raw'], 2, true), [
    '-drive',
    `if=virtio,id=d,cache=none,${overlay}`,
  ])
  t.same(edit(['qemu', '-hdb', '/old'], 2), ['-drive', `index=1,media=disk,${overlay}`])
  t.same(edit(['qemu', '/old'], 1), ['-drive', `index=0,media=disk,${overlay}`])
  t.same(edit(['qemu', '-pflash', '/old'], 2), ['-drive', `if=pflash,${overlay}`])
  t.same(
    edit(['qemu', '-drive', 'driver=raw,file.driver=file,file.filename=/old,file.aio=native,if=virtio,offset=512'], 2),
    [
      '-drive',
      'if=virtio,driver=qcow2,file.driver=file,file.filename=/run/new/d.qcow2,file.aio=native,backing=snapswitch0d0-0',
    ],
    'how the file is used stays',
  )
  t.same(
    edit(['qemu', '-drive', 'driver=throttle,throttle-group=g,file.driver=raw,file.file.filename=/old,if=virtio'], 2),
    [
      '-drive',
      'driver=throttle,throttle-group=g,if=virtio,file.driver=qcow2,file.file.driver=file,' +
        'file.file.filename=/run/new/d.qcow2,file.backing=snapswitch0d0-0',
    ],
    'the filter stays',
  )
  const tree = {
    driver: 'qcow2',
    'node-name': 'n',
    'read-only': false,
    file: { driver: 'file', filename: '/run/new/d.qcow2' },
    backing: 'snapswitch0d0-0',
  }
  const nested = edit(
    ['qemu', '-blockdev', 'driver=raw,node-name=n,discard=unmap,file.driver=file,file.filename=/old,file.aio=native'],
    2,
  )
  t.same(JSON.parse(nested[1]!), { ...tree, discard: 'unmap', file: { ...tree.file, aio: 'native' } })
  const split = edit(
    [
      'qemu',
      ...['-blockdev', '{"driver":"file","node-name":"f","filename":"/old","cache":{"direct":true}}'],
      ...['-blockdev', 'driver=file,node-name=bf,filename=/oldbase', '-blockdev', 'driver=qcow2,node-name=b,file=bf'],
      ...['-blockdev', 'driver=qcow2,node-name=n,file=f,backing=b', '-device', 'virtio-blk,drive=n'],
    ],
    8,
  )
  t.equal(split.length, 4, 'the nodes of the old image are gone')
  t.same(JSON.parse(split[1]!), { ...tree, file: { ...tree.file, cache: { direct: true } } })
  const inText = 'locking=off,aio-max-batch=64,drop-cache=no,cache.direct=yes'
  const inJson = '"locking":"off","aio-max-batch":64,"drop-cache":false,"cache":{"direct":true}'
  const used = { locking: 'off', 'aio-max-batch': 64, 'drop-cache': false, cache: { direct: true } }
  for (const blockdev of [
    `driver=file,node-name=f,filename=/old,${inText}`,
    `{"driver":"file","node-name":"f","filename":"/old",${inJson}}`,
  ]) {
    const on = 'driver=qcow2,node-name=n,file=f,detect-zeroes=on,discard=unmap,cache.no-flush=off'
    const [, node] = edit(['qemu', '-blockdev', blockdev, '-blockdev', on], 4)
    t.strictSame(
      JSON.parse(node!),
      {
        ...{ ...tree, 'detect-zeroes': 'on', discard: 'unmap', cache: { 'no-flush': false } },
        file: { ...tree.file, ...used },
      },
      'each option with the type that QEMU wants in JSON',
    )
  }
  const throttled = edit(['qemu', '-blockdev', 'driver=throttle,node-name=t,throttle-group=on,file.driver=qcow2'], 2)
  t.match(JSON.parse(throttled[1]!), { driver: 'throttle', 'throttle-group': 'on' }, 'a name is a name')
  const bare = edit(['qemu', '-blockdev', 'driver=file,node-name=n,filename=/old', '-device', 'virtio-blk,drive=n'], 2)
  t.same(JSON.parse(bare[1]!), tree)
  t.throws(() => commandLineFor(definition(['qemu'], []), next({ disks })), { code: 'MACHINE_UNSUPPORTED' })
  t.end()
})

t.test('the next command line: any depth, again and again', (t) => {
  const deep = Array.from(
    { length: 200 },
    (_, i) => ({ file: `/store/${'x'.repeat(200)}/${i}.qcow2`, format: 'qcow2' }) as const,
  )
  const drives = ['a', 'b'].map((name, i) => ({ name, argument: 2 + 2 * i }))
  const wanted = ['a', 'b'].map((name) => ({ name, overlay: `/run/${name}`, backing: deep }))
  let argv = words('qemu -drive file=/a,id=a,if=none -drive file=/b,id=b,if=none')
  for (let round = 0; round < 3; round++) {
    argv = commandLineFor(definition(argv, drives), next({ disks: wanted })).slice(0, -5)
    t.equal(argv.length, 1 + 2 * (2 * 200 + 2), 'no layer of the time before is left')
    t.ok(argv.every((word) => word.length < 1000))
    for (const [i, name] of ['a', 'b'].entries()) {
      drives[i] = { name, argument: argv.findIndex((word) => word.includes(`id=${name}`)) }
    }
  }
  const most = Array.from({ length: 10_000 }, () => deep[0]!)
  t.throws(() => commandLineFor(definition(argv, drives), next({ disks: [{ ...wanted[0]!, backing: most }] })), {
    code: 'MACHINE_UNSUPPORTED',
  })
  t.end()
})

t.test('the next command line: media', (t) => {
  const edit = (argv: string[], argument: number | null, medium: string | null, name = 'd') =>
    commandLineFor(
      definition(argv, argument === null ? [] : [{ name, argument }]),
      next({ media: [{ name, file: medium, format: 'raw', removable: true }] }),
    ).slice(1, -5)
  t.same(edit(['qemu', '-cdrom', '/old'], 2, '/new,er'), ['-drive', 'index=2,media=cdrom,file=/new,,er,format=raw'])
  t.same(edit(['qemu', '-cdrom', '/old'], 2, null), ['-drive', 'index=2,media=cdrom'])
  t.same(edit(['qemu', '-drive', 'file=/old,id=d,if=none,cache=none,media=cdrom,readonly=on'], 2, null), [
    '-drive',
    'id=d,if=none,media=cdrom,readonly=on',
  ])
  t.same(edit(['qemu', '-drive', 'id=d,if=floppy'], 2, '/new'), [
    '-drive',
    'id=d,if=floppy,file=/new,format=raw,read-only=on',
  ])
  const node = { driver: 'raw', 'read-only': true, file: file('/new') }
  const wired = [
    'qemu',
    '-blockdev',
    'driver=raw,node-name=n,file.driver=file,file.filename=/old',
    '-device',
    'ide-cd,drive=n,id=d',
  ]
  const changed = edit(wired, 2, '/new')
  t.same(
    [JSON.parse(changed[1]!), ...changed.slice(2)],
    [{ ...node, 'node-name': 'n' }, '-device', 'ide-cd,drive=n,id=d'],
  )
  t.same(edit(wired, 2, null), ['-device', 'ide-cd,id=d'], 'ejected')
  const filled = edit(['qemu', '-device', 'ide-cd,id=d'], 2, '/new')
  t.same(
    [JSON.parse(filled[1]!), ...filled.slice(2)],
    [{ ...node, 'node-name': 'snapswitch0d0' }, '-device', 'ide-cd,id=d,drive=snapswitch0d0'],
    'it was empty at the start',
  )
  t.same(edit(['qemu'], null, '/new', 'ide1-cd0'), ['-drive', 'index=2,media=cdrom,file=/new,format=raw'])
  t.same(edit(['qemu'], null, null, 'ide1-cd0'), [])
  t.throws(() => edit(['qemu'], null, '/new', 'other'), { code: 'MACHINE_UNSUPPORTED' })
  t.end()
})

t.test('drives found on the command line', (t) => {
  const find = (line: string, ...drives: [name: string, qdev: string | null, ...files: string[]][]) => {
    const argv = words(line)
    const sought = drives.map(([name, qdev, ...files]) => ({ name, qdev, files }))
    const found = findDriveArguments(argv, sought, (name) => (name.startsWith('/') ? name : `/where/${name}`))
    return [...found.drives.map(({ name, argument }) => `${name}: ${argv[argument]}`), ...found.missing]
  }
  t.same(find('qemu -drive file=/other,id=d0', ['d0', null, '/elsewhere']), ['d0: file=/other,id=d0'], 'by its id')
  t.same(
    find('qemu -hda rel.qcow2', ['x', null, '/where/rel.qcow2'], ['y', null, '/j']),
    ['x: rel.qcow2', 'y'],
    'by file',
  )
  t.same(
    find(
      'qemu -drive file=a,if=virtio -drive file=b,if=virtio -drive file=c,if=ide,index=2,media=cdrom -cdrom d -hdb e -drive file=f,if=pflash',
      ...['virtio0', 'virtio1', 'pflash0', 'ide0-hd1'].map((name): [string, null] => [name, null]),
      ['ide1-cd0', null, '/gone'],
    ).length,
    5,
  )
  t.same(
    find(
      'qemu -drive file=a,if=virtio -drive file=b,if=virtio -cdrom c',
      ['virtio1', null],
      ['ide1-cd0', null],
      ['virtio0', null],
    ),
    ['virtio1: file=b,if=virtio', 'ide1-cd0: c', 'virtio0: file=a,if=virtio'],
    'by the names that QEMU gives, whatever is in them now',
  )
  t.same(
    find('qemu -cdrom c -drive file=d,index=0', ['ide2-cd0', null], ['ide0-hd0', null]),
    ['ide2-cd0: c', 'ide0-hd0: file=d,index=0'],
    'one drive a bus (q35)',
  )
  const blockdevs =
    'qemu -blockdev driver=file,node-name=f,filename=/a -blockdev driver=qcow2,node-name=n,file=f ' +
    '-blockdev driver=throttle,node-name=t,throttle-group=g,file=n '
  const image = 'driver=qcow2,node-name=n,file=f'
  const path = '/machine/peripheral/x/virtio-backend'
  t.same(find(`${blockdevs}-device virtio-blk,id=x,drive=t`, [path, path]), [`${path}: ${image}`], 'by the device')
  const first = '/machine/peripheral-anon/device[0]/virtio-backend'
  t.same(find(`${blockdevs}-device virtio-blk,drive=n`, [first, first]), [`${first}: ${image}`], 'by its place')
  t.same(find(`${blockdevs}-machine pflash0=n`, ['z', '/machine/system.flash0']), [`z: ${image}`])
  t.same(find('qemu -device ide-cd,id=cd', ['cd', 'cd', '/new']), ['cd: ide-cd,id=cd'], 'a drive without a medium')
  t.end()
})

t.test('other control sockets and logs survive', (t) => {
  const argv = words(
    'qemu -qmp unix:/kept/own.sock,server=on -qmp unix:/kept/other.sock,server=on -qmp-pretty unix:/gone/p,server=on ' +
      '-chardev socket,id=m,path=/kept/m.sock,server=on -mon chardev=m,mode=control -D /kept/d.log ' +
      '-chardev file,id=f,path=/kept/f.log -chardev socket,id=s,path=/gone/s,logfile=/gone/s.log',
  )
  const edited = commandLineFor({ ...definition(argv), qmp: '/kept/own.sock' }, next({})).slice(0, -5)
  t.same(
    edited,
    words(
      'qemu -qmp unix:/kept/other.sock,server=on -qmp-pretty unix:/run/new/p,server=on ' +
        '-chardev socket,id=m,path=/kept/m.sock,server=on -mon chardev=m,mode=control -D /run/new/d.log ' +
        '-chardev file,id=f,path=/kept/f.log,append=on -chardev socket,id=s,path=/run/new/s,logfile=/run/new/s.log,logappend=on',
    ),
  )
  const own = commandLineFor({ ...definition(argv), qmp: '/kept/m.sock' }, next({})).join(' ')
  t.notMatch(own, /m\.sock|chardev=m/, 'the one that the daemon used is replaced')
  t.match(own, /own\.sock.*other\.sock/)
  t.end()
})

t.test('files besides disks: named, and found elsewhere', (t) => {
  const argv = words(
    'qemu -kernel boot/k -initrd /i -append x -bios own.bin -bios bios-256k.bin -dtb /d ' +
      '-option-rom /rom,bootindex=1 -fw_cfg name=opt/x,file=f,,1 -fw_cfg opt/y,string=z -smbios type=1,serial=7 ' +
      '-smbios file=/s -acpitable file=/a:/b -device e1000,romfile=/r -device virtio-net-pci,romfile= ' +
      '-device {"driver":"loader","file":"/l","cpu-num":0} -device virtio-rng-pci,romfile=efi-virtio.rom',
  )
  const there = (file: string) => !/bios-256k|efi-virtio/.test(file)
  const files = externalFiles(argv, '/vm', there)
  t.same(
    files.map(({ role, path }) => `${role} ${path}`),
    [
      'kernel /vm/boot/k',
      'initrd /i',
      'firmware /vm/own.bin',
      'dtb /d',
      'option ROM /rom',
      'fw_cfg /vm/f,1',
      'SMBIOS table /s',
      'ACPI table /a',
      'ACPI table /b',
      'option ROM /r',
      'loaded file /l',
    ],
  )
  const here = new Map(files.map(({ path }) => [path, `/images${path},`]))
  const edited = commandLineFor({ ...definition(argv), directory: '/vm' }, next({ files: here })).join(' ')
  t.equal(
    edited.split(' -qmp ')[0],
    'qemu -kernel /images/vm/boot/k, -initrd /images/i, -append x -bios /images/vm/own.bin, -bios bios-256k.bin -dtb /images/d, ' +
      '-option-rom /images/rom,,,bootindex=1 -fw_cfg name=opt/x,file=/images/vm/f,,1,, -fw_cfg opt/y,string=z ' +
      '-smbios type=1,serial=7 -smbios file=/images/s,, -acpitable file=/images/a,,:/images/b,, ' +
      '-device e1000,romfile=/images/r,, -device virtio-net-pci,romfile= ' +
      '-device {"driver":"loader","file":"/images/l,","cpu-num":0} -device virtio-rng-pci,romfile=efi-virtio.rom',
  )
  t.end()
})

t.test('command lines that cannot be used again', (t) => {
  for (const line of [
    '-snapshot',
    '-drive file=a,snapshot=on',
    '-chroot /x',
    '-run-with chroot=/x',
    '-add-fd fd=3,set=1',
    '-readconfig x',
    '-tpmdev emulator,id=t0,chardev=c',
    '-netdev vhost-user,id=n0,chardev=c',
    '-netdev {"type":"vhost-vdpa","id":"n0"}',
    '-device vhost-user-blk-pci,chardev=c',
    '-device {"driver":"vhost-user-fs-pci","chardev":"c"}',
    '-device vfio-pci,host=01:00.0',
    '-device ivshmem-plain,memdev=m',
    '-device usb-host,vendorid=1',
    '-device vhost-vsock-pci,guest-cid=3',
    '-device nvdimm,memdev=m',
    '-chardev socket,id=c,fd=9',
    '-object memory-backend-file,id=m,size=1G,mem-path=/vm/mem,share=on',
    '-pidfile /dev/fdset/3',
  ]) {
    t.throws(() => checkCommandLine(words(`qemu ${line}`)), { code: 'MACHINE_UNSUPPORTED' }, line)
  }
  for (const line of [
    '-drive file=snapshot=on.img -m 64',
    '-netdev tap,id=n0,vhost=on,queues=4 -device virtio-net-pci,netdev=n0,mq=on',
    '-object memory-backend-file,id=m,size=1G,mem-path=/dev/hugepages,share=on',
    '-device pc-dimm,memdev=m -sandbox on -runas nobody -daemonize -monitor stdio -serial pty -run-with async-teardown=on',
  ])
    t.doesNotThrow(() => checkCommandLine(words(`qemu ${line}`)), line)
  t.end()
})

t.test('why it does not run', (t) => {
  t.equal(stateDetail('running', []), null)
  const drive = (name: string, ioStatus: string | null) =>
    ({ name, ioStatus, qdev: null, removable: false, readOnly: false, root: null }) as const
  t.match(
    stateDetail('io-error', [drive('cd', null), drive('d0', 'nospace')]),
    /no space left for drive d0 .*make room/,
  )
  t.match(stateDetail('io-error', [drive('d0', 'failed')]), /I\/O error of drive d0/)
  for (const state of [
    'paused',
    'guest-panicked',
    'internal-error',
    'shutdown',
    'watchdog',
    'inmigrate',
    'postmigrate',
    'suspended',
  ])
    t.ok((stateDetail(state, []) ?? '').length > state.length, state)
  t.match(stateDetail('brand-new', []), /brand-new/)
  t.end()
})

t.test('the node of a file', (t) => {
  const nodes = [
    { 'node-name': 'p', drv: 'file', file: '/abs' },
    { 'node-name': 'q', drv: 'raw', file: '/abs' },
  ]
  t.equal(findNode(nodes, { file: '/abs', format: 'raw' }, '/'), 'q')
  t.equal(findNode([...nodes, ...nodes], { file: '/abs', format: 'raw' }, '/'), null, 'ambiguous')
  t.end()
})

t.test('write-protected ranges of smaps', (t) => {
  const smaps = [
    '7f0000000000-7f0010000000 rw-p 00000000 00:00 0 ',
    'Rss:  10 kB',
    'VmFlags: rd wr mr mw me ac uw sd ',
    '7f0020000000-7f0020001000 rw-p 00000000 00:00 0 ',
    'VmFlags: rd wr mr mw me ac sd ',
  ].join('\n')
  t.same(protectedRanges(smaps), [{ start: 0x7f0000000000n, length: 0x10000000n }])
  t.end()
})

/** What QEMU says of `-OPTION` as its last word; before it, a word that has QEMU end once all options are read. */
const takesNone = (option: string) =>
  new Promise<boolean>((resolve) => {
    execFile(qemuBinary(), ['-version', `-${option}`], (error) => resolve(error === null))
  })

t.test('options that take no value, by the QEMU that is here', async (t) => {
  const help = execFileSync(qemuBinary(), ['-help'], { encoding: 'utf8' })
  const names = new Set([...help.matchAll(/^-([\w-]+)(?:\/-([\w-]+))?/gm)].flatMap(([, ...names]) => names))
  const options = [...names].filter((name): name is string => name !== undefined && !name.startsWith('-'))
  t.ok(options.length > 100)
  for (let i = 0; i < options.length; i += 8) {
    await Promise.all(
      options.slice(i, i + 8).map(async (option) => {
        const isBare = splitArguments(['qemu', `-${option}`, 'value']).length === 2
        t.equal(isBare, await takesNone(option), option)
      }),
    )
  }
})

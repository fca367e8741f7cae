package storetest

var crowdCases, linearCases []testCase
